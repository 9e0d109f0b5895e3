/**
 * What a cell of a table is: a number, nothing, or words. The same rule as the server's (`steelyard/serve/places/cells.py`, told in
 * docs/conversations.md); both are held to one list of cases, `tests/cells.json`.
 */

import type { Table } from "./state/table.svelte";

/** Longer cells are words. */
const LONGEST = 64;
const POINT = /^(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$/;
const POINT_GROUPED = /^[1-9][0-9]{0,2}([,'\u2019\s])[0-9]{3}(?:\1[0-9]{3})*(?:\.[0-9]+)?$/;
const COMMA = /^(?:[0-9]+,[0-9]+|,[0-9]+)(?:[eE][+-]?[0-9]+)?$/;
const COMMA_GROUPED = /^[1-9][0-9]{0,2}([.'\u2019\s])[0-9]{3}(?:\1[0-9]{3})*(?:,[0-9]+)?$/;
const FRAME = /^[\s$€£¥]*([+\-\u2212]?)[\s$€£¥]*([0-9.,](?:[^]*[0-9.])?)[\s$€£¥%]*$/;
const MISSING = new Set(["-", "\u2013", "\u2014", "?", "na", "n/a", "#n/a", "nan", "null"]);

export interface Column {
  /** A number for each cell that is one, else null. */
  values: (number | null)[];
  /** Whether a cell is empty or, among numbers, a sign for nothing (`n/a`, `NaN`, `-`). */
  missing: boolean[];
  /** Whether there are numbers, and nothing but numbers and missing cells. */
  numeric: boolean;
}

const framed = (cell: string): [string, string] | null => {
  const found = cell.length > LONGEST ? null : FRAME.exec(cell);
  return found ? [found[1] ?? "", found[2] ?? ""] : null;
};

/** A cell as a number, or null. With `comma` a comma is the decimal sign; without it, only where it can be nothing else. */
export function numberOf(cell: string, comma = false): number | null {
  const parts = framed(cell);
  if (!parts) return null;
  const [sign, body] = parts;
  const forms = comma ? [COMMA, COMMA_GROUPED, POINT, POINT_GROUPED] : [POINT, POINT_GROUPED, COMMA, COMMA_GROUPED];
  const form = forms.find((one) => one.test(body));
  if (!form) return null;
  const bare = body.replace(/['\u2019\s]/g, "");
  const asComma = form === COMMA || form === COMMA_GROUPED;
  const value = Number(asComma ? bare.replaceAll(".", "").replace(",", ".") : bare.replaceAll(",", ""));
  if (!Number.isFinite(value)) return null;
  return sign !== "" && sign !== "+" ? -value : value;
}

/** Whether a comma is the decimal sign of a column: some cell shows it, and none shows a decimal point. */
export function decimalComma(cells: readonly string[], separator: string): boolean {
  let shows = false;
  let perhaps = false;
  for (const cell of cells) {
    const body = /[.,]/.test(cell) ? framed(cell)?.[1] : undefined;
    if (body === undefined) continue;
    const point = POINT.test(body) || POINT_GROUPED.test(body);
    const comma = COMMA.test(body) || COMMA_GROUPED.test(body);
    if (point && !comma && /[.,]/.test(body)) return false;
    shows ||= comma && !point;
    perhaps ||= comma && body.includes(",");
  }
  return shows || (perhaps && separator === ";");
}

export function columnOf(cells: readonly string[], separator: string): Column {
  const comma = decimalComma(cells, separator);
  const values = cells.map((cell) => numberOf(cell, comma));
  const trimmed = cells.map((cell) => cell.trim());
  const empty = trimmed.map((cell) => cell === "");
  // `NA` between words may be a word (Namibia, sodium); between numbers it is none.
  const signs = trimmed.map((cell) => cell === "" || MISSING.has(cell.toLowerCase()));
  const numeric = values.some((value) => value !== null) && values.every((value, at) => value !== null || signs[at]);
  return { values, missing: numeric ? signs : empty, numeric };
}

const read = new WeakMap<Table, (Column | undefined)[]>();

/** What the cells of a column of a table are; worked out once. */
export function column(table: Table, index: number): Column {
  const known = read.get(table) ?? [];
  read.set(table, known);
  return (known[index] ??= columnOf(
    table.rows.map((row) => row[index] ?? ""),
    table.separator,
  ));
}

/** Indexes of the columns that are numbers. */
export const numericColumns = (table: Table): number[] => table.columns.flatMap((_, index) => (column(table, index).numeric ? [index] : []));
