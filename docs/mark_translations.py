"""Write into a translation which version of the English page it was made from.

After translating what changed, in the project's folder:

    python docs/mark_translations.py docs/first-day.zh.md README.zh-CN.md

The mark is the beginning of the SHA-256 of the English file.  tests/test_translations.py names the
translations whose English page has another one by now.  Mark a page only when it says again what
the English one says; ``git log -p docs/first-day.md`` shows what has changed there.

One word for one thing, in Chinese too (图像 and 校准图像 are held by tests/test_words.py):

    part | 零件
    good part / good image | 良品 / 良品图像
    bad / defective part | 不良品
    defect | 缺陷
    defect type | 缺陷类型
    defective (called, decision) | 判为缺陷 (判定)
    inspect, inspection | 检测
    line | 产线
    lot, batch (of parts) | 批次
    group (of images that belong together) | 组
    session (of taking images) | 拍摄场次
    category | 类别
    image | 图像
    score | 异常分数 (first time), then 分数
    anomaly map | 异常图
    heatmap | 热力图
    region (found) | 区域
    peak (of a region) | 峰值
    region to inspect, ROI | 检测区域
    overlay | 叠加图
    mask | 掩膜
    threshold | 阈值
    p-value | p 值
    false alarm / false-alarm rate | 误报 / 误报率
    guaranteed rate | 保证的误报率
    in the mean | 平均
    with 95 % confidence | 95 % 置信度
    missed / miss | 漏检
    calibration image(s) / set | 校准图像 / 校准集
    calibrate (command) | 校准; fit the threshold anew = 重新设定阈值
    teacher / student (network) | 教师网络 / 学生网络
    segmentation head | 分割头
    synthetic anomaly | 合成异常
    drift | 漂移
    alarm (of drift, monitoring) | 报警
    martingale | 鞅
    train | 训练
    preset | 预设
    setting | 设置
    flag (of a command) | 参数
    command | 命令
    file name | 文件名
    exit code | 退出码
    state file | 状态文件
    model (folder) | 模型 (文件夹)
    runtime (OpenVINO, ONNX) | 推理引擎
    INT8 / quantised form | INT8 形式 / 量化形式
    rejected (line) | 剔除; ejector = 剔除装置
    watch a folder | 监视文件夹
    deployment | 部署
    server / endpoint | 服务器 / 接口
    light, lamp | 光照, 灯
    camera / lens | 相机 / 镜头
    exposure / gain / white balance / focus | 曝光 / 增益 / 白平衡 / 对焦
    out of focus | 失焦

Commands, flags, numbers, file names and what the program prints stay as they are; beside a message
stands what it means: `no drift shown`（未见漂移）.  Each heading has the id of the English one,
`## 阈值 {#threshold}`, so that links lead to it in both languages; links between pages name the
English file, and the site takes the Chinese one.

A paragraph is one line: a line break between two Chinese characters shows as a space.  Chinese has
no italics: take ** or “”.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"\boriginal: \"?([0-9a-f]{12})\b")


def translations() -> list[Path]:
    """Return all translations, of the README and of pages."""
    return [ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.zh.md"))]


def original(page: Path) -> Path:
    """Return the English page that a translation was made from."""
    return page.with_name(re.sub(r"\.zh(-CN)?\.md$", ".md", page.name))


def version(page: Path) -> str:
    """Return what stands for the present text of an English page."""
    return hashlib.sha256(page.read_text(encoding="utf-8").encode()).hexdigest()[:12]


def mark(page: Path) -> str | None:
    """Return the version that a translation says it was made from."""
    found = MARK.search(page.read_text(encoding="utf-8")[:200])
    return found[1] if found else None


def write_mark(page: Path) -> None:
    """Let a translation say that it was made from the present English page."""
    text = page.read_text(encoding="utf-8")
    now = version(original(page))
    if (before := mark(page)) is not None:
        text = text.replace(before, now, 1)
    elif page.name.startswith("README"):  # a forge would show its front matter as a table
        text = f"<!-- original: {now} -->\n{text}"
    elif text.startswith("---\n"):
        text = text.replace("---\n", f'---\noriginal: "{now}"\n', 1)
    else:
        text = f'---\noriginal: "{now}"\n---\n\n{text}'
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_mark(Path(name).resolve())
    if len(sys.argv) == 1:
        for each in translations():
            is_behind = mark(each) != version(original(each))
            print("behind" if is_behind else "ok    ", each.relative_to(ROOT).as_posix())
