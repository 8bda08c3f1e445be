import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

// while developing: LAMPLIGHTER_HQ=https://127.0.0.1:8443 npm run dev
const hq = process.env["LAMPLIGHTER_HQ"] ?? "https://127.0.0.1:8443";

export default defineConfig({
  plugins: [svelte()],
  build: {
    target: "es2023",
    // one script and one style: a page that stays open while HQ is upgraded never asks for a part that is gone
    rolldownOptions: { output: { codeSplitting: false } },
    modulePreload: false,
    assetsInlineLimit: 0,
    reportCompressedSize: true,
  },
  server: { proxy: { "/api": { target: hq, secure: false, headers: { origin: hq } } } },
  test: { include: ["src/**/*.test.ts"] },
});
