// The calculator in the loop, as evaluation/calculator.py: `<<7+8=` is completed by arithmetic. No eval; exact fractions.

const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]"; // Python's \s
const OPEN = /<<([^<>=\n]{1,100})=\n?$/u;
const TOKEN = new RegExp(`${SPACE}*([0-9]+(?:\\.[0-9]*)?|\\.[0-9]+|[-+*/()])`, "uy");
const TRAILING = new RegExp(`${SPACE}+$`, "u");
const MOST = 10n ** 11n;
const SCALE = 10n ** 4n; // decimals of a result
const MOST_DEPTH = 20; // of brackets and signs

/** The result of brackets that `text` has just come to, or null. */
export function resultAtEnd(text) {
  const found = OPEN.exec(text);
  return found && resultOf(found[1]);
}

/** As people write it: 15, 2.5, 0.3333; null for what is no sum of numbers. */
export function resultOf(expression) {
  const tokens = split(expression.replace(TRAILING, ""));
  if (!tokens || tokens.length < 2) return null;
  const reader = { tokens, place: 0 };
  const value = sum(reader, MOST_DEPTH);
  if (!value || reader.place < tokens.length || size(value[0]) >= MOST * value[1]) return null;
  return written(value);
}

function split(expression) {
  const tokens = [];
  for (TOKEN.lastIndex = 0; TOKEN.lastIndex < expression.length; ) {
    const found = TOKEN.exec(expression);
    if (!found) return null;
    tokens.push(found[1]);
  }
  return tokens;
}

// A value is [numerator, denominator] of BigInts with a positive denominator; null is no number.
function sum(reader, depth) {
  let value = product(reader, depth);
  while (value && "+-".includes(reader.tokens[reader.place] ?? "none")) {
    const sign = reader.tokens[reader.place++] === "+" ? 1n : -1n;
    const other = product(reader, depth);
    value = other && [value[0] * other[1] + sign * other[0] * value[1], value[1] * other[1]];
  }
  return value;
}

function product(reader, depth) {
  let value = number(reader, depth);
  while (value && "*/".includes(reader.tokens[reader.place] ?? "none")) {
    const times = reader.tokens[reader.place++] === "*";
    const other = number(reader, depth);
    if (!other || (!times && other[0] === 0n)) return null;
    const [top, bottom] = times ? other : other[0] < 0n ? [-other[1], -other[0]] : [other[1], other[0]];
    value = [value[0] * top, value[1] * bottom];
  }
  return value;
}

function number(reader, depth) {
  const first = reader.tokens[reader.place++];
  if (first === undefined || !depth || "+*/)".includes(first)) return null;
  if (first === "-") {
    const value = number(reader, depth - 1);
    return value && [-value[0], value[1]];
  }
  if (first === "(") {
    const value = sum(reader, depth - 1);
    return reader.tokens[reader.place++] === ")" ? value : null;
  }
  const [whole, decimals = ""] = first.split(".");
  return [BigInt(whole + decimals), 10n ** BigInt(decimals.length)];
}

/** Rounded to four decimals, a half to the even one. */
function written([top, bottom]) {
  let scaled = (size(top) * SCALE) / bottom;
  const rest = 2n * ((size(top) * SCALE) % bottom);
  if (rest > bottom || (rest === bottom && scaled % 2n)) scaled++;
  const decimals = String(scaled % SCALE).padStart(4, "0").replace(/0+$/, "");
  const sign = top < 0n && scaled ? "-" : "";
  return sign + scaled / SCALE + (decimals && "." + decimals);
}

function size(value) {
  return value < 0n ? -value : value;
}
