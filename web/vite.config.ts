import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

/** Writes the licences of all that is bundled into assets/licenses.txt: who gets the page gets them too. */
function licences(): Plugin {
  return {
    name: "licences",
    generateBundle(_, bundle) {
      const packages = new Set<string>();
      for (const chunk of Object.values(bundle)) {
        if (chunk.type !== "chunk") continue;
        for (const id of chunk.moduleIds) {
          const folder = /^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id.replace(/^\0/, ""))?.[1];
          if (folder && existsSync(join(folder, "package.json"))) packages.add(folder);
        }
      }
      const texts = [...packages].sort().map((folder) => {
        const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
        const named = readdirSync(folder, { withFileTypes: true }).filter((entry) => /^(licen[cs]e|notice)/i.test(entry.name));
        const files = named.flatMap((entry) => {
          const path = join(folder, entry.name);
          return entry.isDirectory() ? readdirSync(path).map((file) => join(path, file)) : [path];
        });
        return [`${name} ${version} (${license})`, ...files.map((file) => readFileSync(file, "utf8"))].join("\n\n");
      });
      this.emitFile({ type: "asset", fileName: "assets/licenses.txt", source: texts.join(`\n\n${"=".repeat(80)}\n\n`) });
    },
  };
}

// No inlined assets and no inline scripts: the server's content policy allows neither.
export default defineConfig({
  plugins: [svelte(), licences()],
  base: "/",
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false }, chunkSizeWarningLimit: 1200 },
  server: { proxy: { "/api": "http://127.0.0.1:8000", "/v1": "http://127.0.0.1:8000" } },
});
