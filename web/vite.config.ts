import { defineConfig } from "vite";

// The server has the files in one folder, below a hash of all of them. So their names need none of their own, and stay the same
// from build to build.
export default defineConfig({
  base: "./",
  build: {
    target: "es2023",
    assetsDir: "",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    license: { fileName: "licenses.txt" },
    chunkSizeWarningLimit: 2000,
    rolldownOptions: {
      onwarn: (warning, warn) => warning.code === "MODULE_LEVEL_DIRECTIVE" || warn(warning), // "use client" means nothing here.
      input: ["index.html", "docs.html"],
      output: { entryFileNames: "[name].js", chunkFileNames: "[name].js", assetFileNames: "[name][extname]" },
    },
  },
});
