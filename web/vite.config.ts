import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// No inlined assets and no inline scripts: the server's content policy allows neither.
export default defineConfig({
  plugins: [svelte()],
  base: "/",
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false }, chunkSizeWarningLimit: 1200 },
  server: { proxy: { "/api": "http://127.0.0.1:8000", "/v1": "http://127.0.0.1:8000" } },
});
