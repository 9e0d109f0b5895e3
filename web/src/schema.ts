/** Settings of a lever, read from its JSON schema into fields a person can fill in. */

import type { Schema } from "./api/types";

export type Field =
  | { kind: "boolean" | "text" | "json" }
  | { kind: "number"; whole: boolean; least?: number; most?: number }
  | { kind: "choice"; values: unknown[] };

/** Follows references and takes the useful half of "this or null". */
export function resolve(schema: Schema, root: Schema): Schema {
  if (schema.$ref) {
    const named = root.$defs?.[schema.$ref.replace("#/$defs/", "")];
    return named ? { ...resolve(named, root), ...withoutRef(schema) } : schema;
  }
  if (schema.allOf?.length === 1 && schema.allOf[0]) return { ...resolve(schema.allOf[0], root), ...schema, allOf: [] };
  const some = schema.anyOf?.filter((one) => one.type !== "null");
  if (some?.length === 1 && some[0]) return { ...resolve(some[0], root), ...schema, anyOf: [] };
  return schema;
}

const withoutRef = ({ $ref: _, ...rest }: Schema): Schema => rest;

export const allowsNull = (schema: Schema): boolean => schema.anyOf?.some((one) => one.type === "null") ?? false;

export function fieldOf(schema: Schema, root: Schema): Field {
  const whole = resolve(schema, root);
  if (whole.enum) return { kind: "choice", values: whole.enum };
  if (whole.const !== undefined) return { kind: "choice", values: [whole.const] };
  switch (whole.type) {
    case "boolean":
      return { kind: "boolean" };
    case "integer":
    case "number": {
      const least = whole.minimum ?? whole.exclusiveMinimum;
      const most = whole.maximum ?? whole.exclusiveMaximum;
      return { kind: "number", whole: whole.type === "integer", ...(least === undefined ? {} : { least }), ...(most === undefined ? {} : { most }) };
    }
    case "string":
      return { kind: "text" };
    default:
      return { kind: "json" };
  }
}

/** The settings of a lever that a request may bring: files of the server are not named by its clients. */
export const askable = (schema: Schema): [string, Schema][] =>
  Object.entries(schema.properties ?? {}).filter(([, field]) => resolve(field, schema).format !== "path");

/** What a lever starts with: the defaults of its schema; settings without one are left for the person. */
export function defaultsOf(schema: Schema): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(schema.properties ?? {})) if (field.default !== undefined && field.default !== null) out[name] = field.default;
  return out;
}
