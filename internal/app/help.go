package app

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
)

// entry is one setting as its tags describe it.
type entry struct {
	name, fallback, help string
	required             bool
}

func settingOf(field reflect.StructField) entry {
	name, option, _ := strings.Cut(field.Tag.Get("env"), ",")
	return entry{name: name, fallback: field.Tag.Get("envDefault"), help: field.Tag.Get("help"), required: option == "required"}
}

func settings() (all []entry) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if s := settingOf(field); s.name != "" {
			all = append(all, s)
		}
	}
	return all
}

func setting(name string) entry {
	for _, s := range settings() {
		if s.name == name {
			return s
		}
	}
	return entry{}
}

func (s entry) defaultText() string {
	if s.required {
		return "required"
	}
	return s.fallback
}

// help prints the table of settings for a terminal.
func help(w io.Writer, role Role) {
	_, _ = fmt.Fprintf(w, "plinth %s is configured by environment variables alone:\n\n", role)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "VARIABLE\tDEFAULT\tMEANING")
	for _, s := range settings() {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", s.name, s.defaultText(), s.help)
	}
	_ = table.Flush()
}

// configurationPage is docs/configuration.md; a test keeps the two the same.
func configurationPage() string {
	var b strings.Builder
	b.WriteString("# Configuration\n\nEverything is set by environment variables. An empty value counts as not set. A missing or wrong value stops the\n" +
		"start with one message that names every one of them, and exit status 2. `cmd/server -help` prints this table.\n\n" +
		"| variable | default | meaning |\n| --- | --- | --- |\n")
	for _, s := range settings() {
		fallback := s.defaultText()
		if fallback != "" && !s.required {
			fallback = "`" + fallback + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.name, fallback, s.help)
	}
	b.WriteString("\n`cmd/dev` starts what you name none of, and reads `DATA_DIR` (default `.plinth`), where its data lies, and `PG_BINDIR`,\n" +
		"the folder of the Postgres binaries, besides. Its defaults differ: `HTTP_ADDR=127.0.0.1:8080`, `AUTH_MODE=off`,\n" +
		"`WORKER_INLINE=true`, `MESSAGE_AUTO_CREATE_QUEUES=true`, `LOG_FORMAT=console`, `SHUTDOWN_TIMEOUT=1s`, and `BROKER=postgres` unless `AMQP_URL`\nis set.\n")
	return b.String()
}
