// Package web holds the console as it is built from the sources here: static files, which the port serves.
package web

import (
	"embed"
	"io/fs"
)

//go:embed all:dist
var dist embed.FS

// Dist returns the built console: index.html, docs.html, and the files that they load, all in one folder.
func Dist() fs.FS {
	built, _ := fs.Sub(dist, "dist") // The path is valid, so it cannot fail.
	return built
}
