/** A person's own table: RFC 4180 with the separators people really use, and what each column holds. */

import type { Table } from "./state/table.svelte";

const SEPARATORS = [",", ";", "\t", "|"];

/** The separator that is most often there, outside quotes, in the first line. */
function separatorOf(text: string): string {
  const counts = new Map(SEPARATORS.map((separator) => [separator, 0]));
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const character = text[at] as string;
    if (character === '"') quoted = !quoted;
    else if (!quoted && (character === "\n" || character === "\r")) break;
    else if (!quoted && counts.has(character)) counts.set(character, (counts.get(character) ?? 0) + 1);
  }
  return SEPARATORS.reduce((best, one) => ((counts.get(one) ?? 0) > (counts.get(best) ?? 0) ? one : best));
}

/** Rows of cells. A quote that never closes takes the rest of the file, as the standard has it. */
export function parseCsv(input: string): string[][] {
  const text = input.replace(/^\uFEFF/, "");
  const separator = separatorOf(text);
  const rows: string[][] = [];
  let row: string[] = [];
  let cell = "";
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const character = text[at] as string;
    if (quoted) {
      if (character !== '"') cell += character;
      else if (text[at + 1] === '"') cell += text[at++];
      else quoted = false;
    } else if (character === '"' && cell === "") quoted = true;
    else if (character === separator) {
      row.push(cell);
      cell = "";
    } else if (character === "\n" || character === "\r") {
      if (character === "\r" && text[at + 1] === "\n") at++;
      row.push(cell);
      rows.push(row);
      row = [];
      cell = "";
    } else cell += character;
  }
  if (cell !== "" || row.length) rows.push([...row, cell]);
  return rows.filter((one) => one.length > 1 || one[0] !== "");
}

/** A cell as a number, or NaN. `1.234,5` is read where the comma can only be the decimal sign; %, spaces and currency signs go. */
export function numberOf(cell: string): number {
  const bare = cell.trim().replace(/[\s\u00A0\u202F%€$£¥]/g, "");
  if (bare === "") return Number.NaN;
  if (/^[+-]?\d{1,3}(\.\d{3})*,\d+$/.test(bare) && !/^[+-]?\d{1,3},\d{3}$/.test(bare)) return Number(bare.replaceAll(".", "").replace(",", "."));
  if (/^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$/.test(bare)) return Number(bare.replaceAll(",", ""));
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(bare) ? Number(bare) : Number.NaN;
}

/** Indexes of the columns whose every filled cell is a number. */
export function numericColumns(table: Table): number[] {
  return table.columns.flatMap((_, column) => {
    const filled = table.rows.map((row) => row[column] ?? "").filter((cell) => cell.trim() !== "");
    return filled.length && filled.every((cell) => !Number.isNaN(numberOf(cell))) ? [column] : [];
  });
}
