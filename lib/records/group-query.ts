import { CountersignError } from "../domain/errors.ts";

/**
 * A small language over what chain and ledgers say of a device:
 *
 *     issuer = technician-z and installed > 2026-07
 *     lot in (L-1, L-2) and not under factory-y
 *     (device = dev-1-* or expires < 2027-01-01) and state != disabled
 *
 * A fact that a device doesn't have makes every comparison with it false, `!=` too. See docs/groups.md.
 */

export const TEXT_FIELDS = [
  "device",
  "ca",
  "issuer",
  "lot",
  "builder",
  "installer",
  "technician",
  "profile",
  "serial",
  "state",
] as const;
export const TIME_FIELDS = ["built", "certified", "injected", "installed", "expires", "connected"] as const;
type TextField = (typeof TEXT_FIELDS)[number];
type TimeField = (typeof TIME_FIELDS)[number];
export type GroupField = TextField | TimeField | "under";

/** What is known of a device. Times in milliseconds since 1970. */
export type DeviceFacts = { readonly [F in TextField]?: string | undefined } & {
  readonly [F in TimeField]?: number | undefined;
} & {
  /** every CA (or its party) above the device, in any order */
  readonly under?: readonly string[] | undefined;
};

type Comparison = "=" | "!=" | "<" | "<=" | ">" | ">=";

export type GroupQuery =
  | { readonly kind: "and"; readonly parts: readonly GroupQuery[] }
  | { readonly kind: "or"; readonly parts: readonly GroupQuery[] }
  | { readonly kind: "not"; readonly part: GroupQuery }
  | {
      readonly kind: "text";
      readonly field: TextField | "under";
      readonly negated: boolean;
      readonly values: readonly string[];
    }
  /** a span of time, its end not part of it: a day, a month, a year, a moment */
  | {
      readonly kind: "time";
      readonly field: TimeField;
      readonly op: Comparison;
      readonly from: number;
      readonly to: number;
    };

export const MAX_QUERY_LENGTH = 1000;
const MAX_TERMS = 64;
const MAX_DEPTH = 16;

/** @throws CountersignError `input-invalid`, saying where */
export function parseGroupQuery(text: string): GroupQuery {
  return new Parser(text).whole();
}

export function matchesGroup(query: GroupQuery, facts: DeviceFacts): boolean {
  switch (query.kind) {
    case "and":
      return query.parts.every((part) => matchesGroup(part, facts));
    case "or":
      return query.parts.some((part) => matchesGroup(part, facts));
    case "not":
      return !matchesGroup(query.part, facts);
    case "text":
      return matchesText(query, facts);
    case "time":
      return matchesTime(query, facts[query.field]);
  }
}

/** The facts it asks for. */
export function fieldsOfQuery(query: GroupQuery): Set<GroupField> {
  switch (query.kind) {
    case "and":
    case "or":
      return new Set(query.parts.flatMap((part) => [...fieldsOfQuery(part)]));
    case "not":
      return fieldsOfQuery(query.part);
    case "text":
    case "time":
      return new Set([query.field]);
  }
}

function matchesText(query: GroupQuery & { kind: "text" }, facts: DeviceFacts): boolean {
  const fact = facts[query.field];
  const known = typeof fact === "string" ? [fact] : (fact ?? []);
  if (known.length === 0) return false;
  return query.values.some((value) => known.some((one) => sameText(one, value))) !== query.negated;
}

/** Names of parties and CAs in any case; a `*` at the end stands for any rest. */
function sameText(fact: string, value: string): boolean {
  const [a, b] = [fact.toLowerCase(), value.toLowerCase()];
  return b.endsWith("*") ? a.startsWith(b.slice(0, -1)) : a === b;
}

function matchesTime({ op, from, to }: GroupQuery & { kind: "time" }, at: number | undefined): boolean {
  if (at === undefined) return false;
  switch (op) {
    case "=":
      return at >= from && at < to;
    case "!=":
      return at < from || at >= to;
    case "<":
      return at < from;
    case "<=":
      return at < to;
    case ">":
      return at >= to;
    case ">=":
      return at >= from;
  }
}

interface Token {
  readonly kind: "word" | "quoted" | "symbol" | "end";
  readonly text: string;
  readonly at: number;
}

const TOKEN = /\s*(?:([A-Za-z0-9][A-Za-z0-9._:+*-]*)|"([^"\\\p{Cc}]*)"|(!=|<=|>=|[=<>(),]))/uy;

class Parser {
  readonly #tokens: Token[];
  #next = 0;
  #terms = 0;

  constructor(text: string) {
    if (text.length > MAX_QUERY_LENGTH) throw invalid(`longer than ${MAX_QUERY_LENGTH} characters`, 0);
    this.#tokens = tokens(text);
  }

  whole(): GroupQuery {
    const query = this.#or(0);
    const rest = this.#peek();
    if (rest.kind !== "end") throw invalid(`${JSON.stringify(rest.text)} isn't expected here`, rest.at);
    return query;
  }

  #or(depth: number): GroupQuery {
    return this.#list("or", () => this.#list("and", () => this.#unary(depth + 1)));
  }

  #list(kind: "and" | "or", part: () => GroupQuery): GroupQuery {
    const parts = [part()];
    while (this.#word(kind)) parts.push(part());
    return parts.length === 1 ? parts[0]! : { kind, parts };
  }

  #unary(depth: number): GroupQuery {
    if (depth > MAX_DEPTH) throw invalid(`nested deeper than ${MAX_DEPTH}`, this.#peek().at);
    if (this.#word("not")) return { kind: "not", part: this.#unary(depth + 1) };
    if (!this.#symbol("(")) return this.#term();
    const inner = this.#or(depth);
    this.#expect(")");
    return inner;
  }

  #term(): GroupQuery {
    const { kind, text, at } = this.#take();
    if (++this.#terms > MAX_TERMS) throw invalid(`more than ${MAX_TERMS} comparisons`, at);
    const name = text.toLowerCase();
    const known = [...TEXT_FIELDS, ...TIME_FIELDS].join(", ");
    if (kind === "end") throw invalid("a comparison is missing", at);
    if (kind === "word" && name === "under")
      return { kind: "text", field: "under", negated: false, values: this.#values(true) };
    if (kind === "word" && isOneOf(TEXT_FIELDS, name)) return this.#text(name);
    if (kind === "word" && isOneOf(TIME_FIELDS, name)) return this.#time(name);
    throw invalid(`${JSON.stringify(text)} is no field; there are under, ${known}`, at);
  }

  #text(field: TextField): GroupQuery {
    if (this.#word("in")) return { kind: "text", field, negated: false, values: this.#values(false) };
    const { text, at } = this.#take();
    if (text !== "=" && text !== "!=") throw invalid(`${field} takes =, != or in (...)`, at);
    return { kind: "text", field, negated: text === "!=", values: [this.#value()] };
  }

  /** In parentheses; one alone without, where that is allowed. */
  #values(bare: boolean): string[] {
    if (bare && this.#peek().text !== "(") return [this.#value()];
    this.#expect("(");
    const values = [this.#value()];
    while (this.#symbol(",")) values.push(this.#value());
    this.#expect(")");
    return values;
  }

  #time(field: TimeField): GroupQuery {
    const op = this.#take();
    if (op.kind !== "symbol" || !isOneOf(["=", "!=", "<", "<=", ">", ">="], op.text)) {
      throw invalid(`${field} takes = != < <= > >=`, op.at);
    }
    const { at } = this.#peek();
    return { kind: "time", field, op: op.text, ...span(this.#value(), at) };
  }

  #value(): string {
    const { kind, text, at } = this.#take();
    if (kind !== "word" && kind !== "quoted") throw invalid("a value is missing", at);
    return text;
  }

  #peek(): Token {
    return this.#tokens[this.#next]!;
  }

  #take(): Token {
    const token = this.#peek();
    if (token.kind !== "end") this.#next++;
    return token;
  }

  #word(text: string): boolean {
    return this.#accept(this.#peek().kind === "word" && this.#peek().text.toLowerCase() === text);
  }

  #symbol(text: string): boolean {
    return this.#accept(this.#peek().kind === "symbol" && this.#peek().text === text);
  }

  #accept(yes: boolean): boolean {
    if (yes) this.#next++;
    return yes;
  }

  #expect(text: string): void {
    if (!this.#symbol(text)) throw invalid(`${text} is missing`, this.#peek().at);
  }
}

function tokens(text: string): Token[] {
  const found: Token[] = [];
  TOKEN.lastIndex = 0;
  const end = text.trimEnd().length;
  for (let at = 0; at < end; at = TOKEN.lastIndex) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    if (match === null) throw invalid("a character that has no meaning here", at);
    const [whole, word, quoted, symbol] = match;
    const kind = word !== undefined ? "word" : quoted !== undefined ? "quoted" : "symbol";
    const start = at + whole.length - whole.trimStart().length;
    found.push({ kind, text: word ?? quoted ?? symbol ?? "", at: start });
  }
  found.push({ kind: "end", text: "", at: end });
  return found;
}

const TIME = /^(\d{4})(?:-(\d{2})(?:-(\d{2})(T\d{2}:\d{2}:\d{2}Z)?)?)?$/;

/** 2026, 2026-07, 2026-07-01 or 2026-07-01T12:00:00Z, in UTC. */
function span(text: string, at: number): { from: number; to: number } {
  const match = TIME.exec(text);
  if (match === null) throw invalid("a time is YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm:ssZ", at);
  const [, year, month, day, time] = match;
  const full = `${year}-${month ?? "01"}-${day ?? "01"}${time ?? "T00:00:00Z"}`;
  const from = Date.parse(full);
  // Date.parse takes the 31st of June for the 1st of July.
  if (Number.isNaN(from) || new Date(from).toISOString() !== full.replace("Z", ".000Z")) {
    throw invalid("there is no such time", at);
  }
  const [y, m, d] = [Number(year), Number(month ?? 1) - 1, Number(day ?? 1)];
  if (time !== undefined) return { from, to: from + 1000 };
  const to = day !== undefined ? Date.UTC(y, m, d + 1) : month !== undefined ? Date.UTC(y, m + 1) : Date.UTC(y + 1, 0);
  return { from, to };
}

function isOneOf<T extends string>(all: readonly T[], text: string): text is T {
  return (all as readonly string[]).includes(text);
}

function invalid(why: string, at: number): CountersignError {
  return new CountersignError("input-invalid", `the group's query, character ${at + 1}: ${why}`, { details: { at } });
}
