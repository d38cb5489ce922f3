// What can be said of an image, each with a word, a sign and a shape: never by colour alone.

const ROUND = "M24 3a21 21 0 1 0 0 42a21 21 0 1 0 0-42z";

export const VERDICTS = {
  running: { word: "Inspecting…", sign: "…", ground: ROUND, path: "M24 13v11l8 5" },
  good: { word: "Good", sign: "✓", ground: ROUND, path: "M14 25l7 7 13-15" },
  defective: { word: "Defective", sign: "✕", ground: "M15.3 3h17.4L45 15.3v17.4L32.7 45H15.3L3 32.7V15.3z",
               path: "M16 16l16 16M32 16 16 32" },
  failed: { word: "No verdict", sign: "!", ground: "M24 4 46 43H2z", path: "M24 18v12m0 6v.1" },
};

export function verdictOf(entry) {
  if (entry.state !== "done") return entry.state;
  return entry.result.is_defective ? "defective" : "good";
}
