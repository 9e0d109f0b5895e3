/** Settings of a lever, read from its JSON schema into fields a person can fill in, and what a person wrote into values. */

import type { LeverInfo, Schema } from "./api/types";
import type { TextKey } from "./texts/texts";

interface Bounds {
  whole: boolean;
  /** Inclusive bounds, and those that are just outside. */
  least?: number;
  most?: number;
  above?: number;
  below?: number;
}

export type NumberField = { kind: "number" } & Bounds;
export type OpenField =
  | { kind: "text" }
  | { kind: "json"; of?: "object" | "array" }
  | NumberField
  /** Numbers or words, written one after the other with commas between. */
  | { kind: "list"; of: NumberField | { kind: "text" } };
export type Field =
  | { kind: "boolean" }
  | { kind: "choice"; values: unknown[] }
  /** One of some values, or something else. */
  | { kind: "either"; values: unknown[]; other: OpenField }
  | OpenField;

/** What is wrong with what a person wrote: a text of the catalogue and what is filled into it. */
export interface Problem {
  key: TextKey;
  values?: Record<string, string>;
}

/** Follows references and takes the useful half of "this or null". */
export function resolve(schema: Schema, root: Schema): Schema {
  if (schema.$ref) {
    const named = root.$defs?.[schema.$ref.replace("#/$defs/", "")];
    return named ? { ...resolve(named, root), ...withoutRef(schema) } : schema;
  }
  if (schema.allOf?.length === 1 && schema.allOf[0]) return { ...resolve(schema.allOf[0], root), ...schema, allOf: [] };
  const some = alternatives(schema);
  if (some?.length === 1 && some[0]) return { ...resolve(some[0], root), ...schema, anyOf: [] };
  return schema;
}

const withoutRef = ({ $ref: _, ...rest }: Schema): Schema => rest;

/** What a setting may be besides null and, where there is anything else, besides a file of the server. */
function alternatives(schema: Schema): Schema[] | undefined {
  const some = schema.anyOf?.filter((one) => one.type !== "null");
  const sent = some?.filter((one) => one.format !== "path");
  return sent?.length ? sent : some;
}

export const allowsNull = (schema: Schema): boolean => schema.anyOf?.some((one) => one.type === "null") ?? false;

export function fieldOf(schema: Schema, root: Schema): Field {
  const whole = resolve(schema, root);
  const several = alternatives(whole);
  if (several && several.length > 1) return unionOf(several.map((one) => fieldOf(one, root)));
  if (whole.enum) return { kind: "choice", values: whole.enum };
  if (whole.const !== undefined) return { kind: "choice", values: [whole.const] };
  switch (whole.type) {
    case "boolean":
      return { kind: "boolean" };
    case "integer":
    case "number":
      return numberOf(whole);
    case "string":
      return { kind: "text" };
    case "array": {
      const item = whole.items && fieldOf(whole.items, root);
      return item?.kind === "number" || item?.kind === "text" ? { kind: "list", of: item } : { kind: "json", of: "array" };
    }
    case "object":
      return { kind: "json", of: "object" };
    default:
      return { kind: "json" };
  }
}

function numberOf({ type, minimum, maximum, exclusiveMinimum, exclusiveMaximum }: Schema): NumberField {
  const bounds = { least: minimum, most: maximum, above: exclusiveMinimum, below: exclusiveMaximum };
  const stated = Object.fromEntries(Object.entries(bounds).filter(([, bound]) => bound !== undefined));
  return { kind: "number", whole: type === "integer", ...stated };
}

function unionOf(fields: Field[]): Field {
  const values = fields.flatMap((field) => (field.kind === "choice" ? field.values : field.kind === "boolean" ? [false, true] : []));
  const open = fields.filter((field): field is OpenField => field.kind !== "choice" && field.kind !== "boolean" && field.kind !== "either");
  if (open.length === 0) return { kind: "choice", values };
  const [other] = open;
  return open.length === 1 && other && values.length ? { kind: "either", values, other } : { kind: "json" };
}

/** The settings of a lever that a request may bring: files of the server are not named by its clients, nor what it does not list. */
export const askable = ({ schema, references = {} }: LeverInfo): [string, Schema][] =>
  Object.entries(schema.properties ?? {}).filter(
    ([name, field]) => resolve(field, schema).format !== "path" && ["model", "index"].includes(references[name] ?? "model"),
  );

/** What a lever starts with: the defaults of its schema; settings without one are left for the person. */
export function defaultsOf(schema: Schema): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(schema.properties ?? {})) if (field.default !== undefined && field.default !== null) out[name] = field.default;
  return out;
}

/** A value as a person reads and writes it in an open field. */
export function written(field: OpenField, value: unknown): string {
  if (value === undefined || value === null) return "";
  if (field.kind === "list" && Array.isArray(value)) return value.join(", ");
  return field.kind === "json" ? JSON.stringify(value) : String(value);
}

/** The value that a person wrote, or what is wrong with it. Nothing written is `undefined`: the setting's own default. */
export function valueOf(field: OpenField, text: string): { value: unknown } | { problem: Problem } {
  if (text.trim() === "") return { value: undefined };
  switch (field.kind) {
    case "text":
      return { value: text };
    case "number":
      return numberIn(field, text);
    case "list": {
      const values: unknown[] = [];
      for (const piece of text.split(/[,،\n]/).map((one) => one.trim())) {
        if (piece === "") continue;
        const read = field.of.kind === "number" ? numberIn(field.of, piece) : { value: piece };
        if ("problem" in read) return read;
        values.push(read.value);
      }
      return { value: values };
    }
    case "json":
      return jsonIn(field.of, text);
  }
}

function numberIn({ whole, least, most, above, below }: NumberField, text: string): { value: number } | { problem: Problem } {
  const value = Number(text);
  const wrong = (key: TextKey, bound?: number): { problem: Problem } => ({ problem: { key, values: { n: String(bound ?? text.trim()) } } });
  if (!Number.isFinite(value)) return wrong("levers.notNumber");
  if (whole && !Number.isInteger(value)) return wrong("levers.notWhole");
  if (least !== undefined && value < least) return wrong("levers.least", least);
  if (most !== undefined && value > most) return wrong("levers.most", most);
  if (above !== undefined && value <= above) return wrong("levers.above", above);
  if (below !== undefined && value >= below) return wrong("levers.below", below);
  return { value };
}

function jsonIn(of: "object" | "array" | undefined, text: string): { value: unknown } | { problem: Problem } {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { problem: { key: "levers.notJson" } };
  }
  const listed = Array.isArray(value);
  if (of === "array" && !listed) return { problem: { key: "levers.notArray" } };
  if (of === "object" && (listed || typeof value !== "object" || value === null)) return { problem: { key: "levers.notObject" } };
  return { value };
}
