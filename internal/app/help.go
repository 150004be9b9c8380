package app

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"
)

// setting is one as its tags describe it.
type setting struct {
	name, fallback, help string
	required             bool
}

func (s section) settingOf(field reflect.StructField) setting {
	name, option, _ := strings.Cut(field.Tag.Get("env"), ",")
	return setting{name: s.prefix + name, fallback: field.Tag.Get("envDefault"), help: field.Tag.Get("help"), required: option == "required"}
}

func settings() (all []setting) {
	for _, s := range new(Config).sections() {
		for _, field := range reflect.VisibleFields(s.fields.Type().Elem()) {
			all = append(all, s.settingOf(field))
		}
	}
	return all
}

func settingNamed(name string) setting {
	for _, s := range settings() {
		if s.name == name {
			return s
		}
	}
	return setting{}
}

func (s setting) defaultText() string {
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

// configurationPage returns the content of docs/configuration.md; a test compares the two.
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
	b.WriteString(connectionsTable())
	b.WriteString("\n## Development\n\n`cmd/dev` starts what you name none of, and reads `DATA_DIR` (default `.plinth`), where its data lies, and `PG_BINDIR`,\n" +
		"the folder of the Postgres binaries, besides. Its defaults differ: `HTTP_ADDR=127.0.0.1:8080`, `AUTH_MODE=off`,\n" +
		"`WORKER_INLINE=true`, `MESSAGE_AUTO_CREATE_QUEUES=true`, `LOG_FORMAT=console`, `SHUTDOWN_TIMEOUT=1s`, and `BROKER=postgres` unless `AMQP_URL`\nis set.\n")
	return b.String()
}

// connectionsTable returns the part of the page about the connections of a process.
func connectionsTable() string {
	defaults, _ := ParseConfig(Server, nil) // The error is about required settings that are missing; the others have their defaults.
	calls, quarter := defaults.Database.shares(defaults.Broker.Kind)
	var b strings.Builder
	b.WriteString("\n## Connections to PostgreSQL\n\nEach process has its connections in classes: whoever holds all of one holds up nobody in another. They are opened as they\n" +
		"are needed, and closed after a minute or less without use.\n\nOf the connections for calls, and for a broker in PostgreSQL, one tenant has at most three times as many as stay free for\n" +
		"others, which is 9 of 12. Tenants that wait for one take turns.\n\n| for | at most | by default |\n| --- | --- | --- |\n")
	beside := workConns + directoryConns + listenConns
	for _, row := range []struct {
		what, most string
		byDefault  int
	}{
		{"calls", "`DATABASE_MAX_CONNS` less the next two", int(calls)},
		{"handlers with a transaction, and settling", "a quarter of `DATABASE_MAX_CONNS`, 1 at least", int(quarter)},
		{"the broker, with `BROKER=postgres`", "likewise", 0},
		{"the relay, what is due, sweeps, notifications", strconv.Itoa(workConns), workConns},
		{"who calls, and readiness", strconv.Itoa(directoryConns), directoryConns},
		{"listening, by `DATABASE_DIRECT_URL`", strconv.Itoa(listenConns), listenConns},
		{"**all**", fmt.Sprintf("`DATABASE_MAX_CONNS` + %d", beside), int(defaults.Database.MaxConns) + beside},
	} {
		fmt.Fprintf(&b, "| %s | %s | %d |\n", row.what, row.most, row.byDefault)
	}
	b.WriteString("\nA process that migrates has one more while it does, by `DATABASE_DIRECT_URL`.\n")
	return b.String()
}
