"""The metrics of maps as their definitions read: pixel by pixel, threshold by threshold."""


def regions_of(mask):
    """The 8-connected regions of a mask [h, w], each a list of places (row, column)."""
    height, width = len(mask), len(mask[0])
    seen, regions = set(), []
    for start in ((row, column) for row in range(height) for column in range(width)):
        if not mask[start[0]][start[1]] or start in seen:
            continue
        region, waiting = [], [start]
        seen.add(start)
        while waiting:
            row, column = waiting.pop()
            region.append((row, column))
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for x in range(max(column - 1, 0), min(column + 2, width)):
                    if mask[y][x] and (y, x) not in seen:
                        seen.add((y, x))
                        waiting.append((y, x))
        regions.append(region)
    return regions


def collected(pairs):
    """Values of good pixels, values of defective pixels, and the values of every region."""
    good, regions = [], []
    for values, mask in pairs:
        for row, line in enumerate(mask):
            good += [float(values[row][x]) for x, defective in enumerate(line) if not defective]
        for region in regions_of(mask):
            regions.append([float(values[row][column]) for row, column in region])
    return good, [value for region in regions for value in region], regions


def reached(values, threshold):
    return sum(value >= threshold for value in values)


def auroc(pairs):
    good, defective, _ = collected(pairs)
    wins = sum((d > g) + (d == g) / 2 for d in defective for g in good)
    return wins / (len(good) * len(defective))


def average_precision(pairs):
    good, defective, _ = collected(pairs)
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(good + defective), reverse=True):
        found = reached(defective, threshold)
        recall = found / len(defective)
        area += (recall - recall_before) * found / (found + reached(good, threshold))
        recall_before = recall
    return area


def f1_max(pairs):
    good, defective, _ = collected(pairs)
    best = 0.0
    for threshold in set(good + defective):
        found = reached(defective, threshold)
        precision = found / (found + reached(good, threshold))
        recall = found / len(defective)
        if found:
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def aupro(pairs, limit=0.3):
    """The trapezoids between neighbouring thresholds, the last one cut at the limit."""
    good, defective, regions = collected(pairs)
    area, x_before, y_before = 0.0, 0.0, 0.0
    for threshold in sorted(set(good + defective), reverse=True):
        x = reached(good, threshold) / len(good)
        y = sum(reached(region, threshold) / len(region) for region in regions) / len(regions)
        if x > limit:
            y_limit = y_before + (y - y_before) * (limit - x_before) / (x - x_before)
            return (area + (limit - x_before) * (y_before + y_limit) / 2) / limit
        area += (x - x_before) * (y_before + y) / 2
        x_before, y_before = x, y
    return area / limit


def instance_precisions(pairs):
    """Score and monotone precision of each instance, scores rising."""
    good, defective, regions = collected(pairs)
    scores = sorted(sorted(region, reverse=True)[len(region) // 2] for region in regions)
    precisions = []
    for score in scores:
        found = reached(defective, score)
        precision = found / (found + reached(good, score))
        precisions.append(max([precision, *precisions[-1:]]))
    return list(zip(scores, precisions, strict=True))


def iap(pairs):
    precisions = [precision for _, precision in instance_precisions(pairs)]
    return sum(precisions) / len(precisions)


def iap_at(pairs, tenths):
    """Recall in whole tenths, so that no rounding is part of the definition."""
    instances = instance_precisions(pairs)
    n = len(instances)
    # 1 - i/n >= tenths/10, multiplied by 10 n.
    return [p for i, (_, p) in enumerate(instances) if 10 * n - 10 * i >= tenths * n][-1]
