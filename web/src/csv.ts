/** Text cut into cells as the server cuts it: RFC 4180 with the separators people really use; and the blocks of data that answers hold. */

export const SEPARATORS = [",", ";", "\t", "|"];

/** The separator that is most often there, outside quotes, in the first line that holds anything. */
export function separatorOf(input: string): string {
  const text = input.replace(/^\uFEFF?[\r\n]*/, "");
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

const cellOf = (value: unknown): string => (typeof value === "string" ? value : value === null || value === undefined ? "" : JSON.stringify(value));

/** The rows of JSON that is a table: a list of objects or of lists, or lists by name. Null where it is none. */
export function parseJson(text: string): string[][] | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null; // an answer's JSON may be anything; it then is just not drawn
  }
  const isRecord = (one: unknown): one is Record<string, unknown> => typeof one === "object" && one !== null && !Array.isArray(one);
  if (isRecord(value)) {
    const columns = Object.values(value);
    if (columns.length === 0 || !columns.every(Array.isArray) || new Set(columns.map((one: unknown[]) => one.length)).size !== 1) return null;
    const lists = columns as unknown[][];
    return [Object.keys(value), ...(lists[0] ?? []).map((_, row) => lists.map((list) => cellOf(list[row])))];
  }
  if (!Array.isArray(value) || value.length === 0) return null;
  if (value.every(isRecord)) {
    const keys = [...new Set(value.flatMap((row) => Object.keys(row)))];
    return [keys, ...value.map((row) => keys.map((key) => cellOf(row[key])))];
  }
  return value.every(Array.isArray) ? value.map((row: unknown[]) => row.map(cellOf)) : null;
}

/** The rows of a fenced block, null where it is no table of two rows and two columns at least. */
export function parseBlock(text: string, language: string): string[][] | null {
  const kind = language.toLowerCase();
  const rows = kind === "json" ? parseJson(text) : kind === "csv" || kind === "tsv" ? parseCsv(text) : null;
  return rows && rows.length > 1 && (rows[0]?.length ?? 0) > 1 ? rows : null;
}
