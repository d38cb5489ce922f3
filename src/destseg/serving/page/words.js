// What the numbers mean, in sentences that hold in every case. All are pure.

export const whole = new Intl.NumberFormat("en");
const rounded = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const exact = new Intl.NumberFormat("en", { maximumSignificantDigits: 12 });

export const count = (number, what) => `${whole.format(number)} ${what}${number === 1 ? "" : "s"}`;
export const pText = p => String(Number(p.toPrecision(3)));

/** Score and threshold with as many digits as it takes to tell them apart, at least 4. */
export function apart(score, threshold) {
  let digits = 4;
  while (digits < 17 && score !== threshold && score.toFixed(digits) === threshold.toFixed(digits)) {
    digits += 1;
  }
  return [score.toFixed(digits), threshold.toFixed(digits)];
}

/** How many calibration images scored at least as high, a tie within the tolerance included. */
export const atLeast = (result, model) =>
  model.calibration.scores.filter(score => score + model.calibration.tolerance >= result.score).length;

/** Whether a model as the page knows it gave this result: it may have been loaded anew. */
export function explains(model, result) {
  const { scores, tolerance, votes, groups, count: n } = model.calibration;
  const above = scores.reduce((sum, score, i) =>
    score + tolerance >= result.score ? sum + (votes ? votes[i] : 1) : sum, 0);
  const expected = (1 + above) / (1 + (groups ?? n));
  return model.threshold === result.threshold && Math.abs(expected - result.p_value) < 1e-9;
}

/** What score and p-value say. */
export function pSentences(result, model) {
  const [score, threshold] = apart(result.score, result.threshold);
  const first = `Its score of ${score} is ${result.is_defective ? "" : "not "}above the threshold of ${threshold}.`;
  if (!model) return [first];
  const { count: n, groups } = model.calibration, as = atLeast(result, model);
  const told = [`${first} ${compared(as, n)}`];
  if (as === n) return told;
  told.push(groups ? ofNewGroup("gets a p-value this low", result.p_value, groups)
    : chance("a good part gets a p-value this low", as + 1, n + 1));
  return told;
}

function compared(as, n) {
  if (n === 1) return `The one good part kept aside from training ${as ? "scored as high or higher" : "scored lower"}.`;
  const parts = `${whole.format(n)} good parts kept aside from training`;
  if (as === 0) return `None of the ${parts} scored as high.`;
  if (as === n) return `All ${parts} scored as high or higher: this is not an unusual score for a good part.`;
  return `${whole.format(as)} of the ${parts} scored as high or higher.`;
}

/** What the threshold is and guarantees. */
export function thresholdSentences(model) {
  const { threshold, guaranteed_false_alarm_rate: guaranteed, max_false_alarm_rate: asked, guarantee_note } = model;
  const { count: n, scores, tolerance, groups } = model.calibration;
  const rank = Math.round(guaranteed * (n + 1));
  const which = !groups && Math.min(1, scores[n - rank] + tolerance) === threshold
    ? ` That is ${ranked(rank, n)}, and ${tolerance} for rounding.` : "";
  const told = [`A part is called defective when its score is above ${threshold.toFixed(4)}.${which}`,
    groups ? ofNewGroup("is called defective", guaranteed, groups)
      : chance("a good part is called defective", rank, n + 1)];
  if (guarantee_note) told.push(sentence(guarantee_note));
  else told.push(`At most ${exact.format(100 * asked)}\u00a0% was asked for.`);
  told.push("Nothing is guaranteed about how many of the defective parts are found: the model has seen none.");
  return told;
}

function ranked(rank, n) {
  if (n === 1) return "the score of the one good part kept aside from training";
  const place = rank === 1 ? "highest" : `${ordinal(rank)} highest`;
  return `the ${place} score of the ${whole.format(n)} good parts kept aside from training`;
}

function ordinal(number) {
  const endings = { one: "st", two: "nd", few: "rd", other: "th" };
  return whole.format(number) + endings[new Intl.PluralRules("en", { type: "ordinal" }).select(number)];
}

const chance = (event, part, all) =>
  `As long as good parts stay as they were, the chance that ${event} is at most ` +
  `${whole.format(part)} in ${whole.format(all)} (${nearly(part / all)}).`;

const ofNewGroup = (event, fraction, groups) =>
  `The good parts kept aside are of ${count(groups, "group")}. As long as new groups come as these came, the chance ` +
  `that a good part of a new one ${event} is at most ${nearly(fraction)}.`;

/** A fraction in per cent, of which it says whether it is rounded. */
function nearly(fraction) {
  const text = rounded.format(100 * fraction);
  return `${text === exact.format(100 * fraction) ? "" : "about "}${text}\u00a0%`;
}

/** Text that ends as a sentence and begins as one. */
export const sentence = text => {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
};
