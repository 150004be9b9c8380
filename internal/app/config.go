package app

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"plinth/internal/auth"
	"plinth/internal/cache"
	"plinth/internal/channel"
	"plinth/internal/file"
	"plinth/internal/lock"
	"plinth/internal/message"
	"plinth/internal/schedule"
)

// Role says what a process does.
type Role string

// The roles. A server with WORKER_INLINE=true does the worker's part as well; cmd/dev is a server that may run without
// authentication.
const (
	Server Role = "server"
	Worker Role = "worker"
	Dev    Role = "dev"
)

// Config is the whole configuration, in sections: first the service's own, which are in settings.go, then one for each
// domain, which is in the domain's package. The fields' tags are the documentation: `-help` and docs/configuration.md are
// generated from them. Each section checks its own values.
type Config struct {
	Role Role

	HTTP      httpConfig
	Process   processConfig
	Auth      authConfig      `envPrefix:"AUTH_"`
	RateLimit rateLimitConfig `envPrefix:"RATE_LIMIT_"`
	Database  databaseConfig  `envPrefix:"DATABASE_"`
	Redis     redisConfig     `envPrefix:"REDIS_"`
	Broker    brokerConfig
	S3        s3Config
	Outbound  outboundConfig `envPrefix:"OUTBOUND_"`
	Seal      sealConfig
	Log       logConfig  `envPrefix:"LOG_"`
	OTel      otelConfig `envPrefix:"OTEL_"`

	Message  message.Limits  `envPrefix:"MESSAGE_"`
	Lock     lock.Limits     `envPrefix:"LOCK_"`
	File     file.Limits     `envPrefix:"FILE_"`
	Cache    cache.Limits    `envPrefix:"CACHE_"`
	Channel  channel.Limits  `envPrefix:"CHANNEL_"`
	Schedule schedule.Limits `envPrefix:"SCHEDULE_"`
}

// section is a field of Config that has settings: a pointer to the field, and the prefix of the names of its settings.
type section struct {
	prefix string
	fields reflect.Value
}

func (c *Config) sections() (all []section) {
	config := reflect.ValueOf(c).Elem()
	for i := range config.NumField() {
		if field := config.Field(i); field.Kind() == reflect.Struct {
			all = append(all, section{config.Type().Field(i).Tag.Get("envPrefix"), field.Addr()})
		}
	}
	return all
}

// checked is implemented by every section. Check checks the values for what the parser does not.
type checked interface{ Check(want want) }

// want records a problem unless ok. setting is without the prefix of its section; format and args say what is wrong, or what
// is allowed.
type want = func(ok bool, setting, format string, args ...any)

// Secret is a value that is never shown.
type Secret string

func (Secret) String() string   { return "[redacted]" }
func (Secret) GoString() string { return "[redacted]" }

// ConfigError names every setting that is missing or wrong.
type ConfigError struct{ Problems []string }

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%d settings are missing or wrong:\n  %s\n-help prints all settings", len(e.Problems), strings.Join(e.Problems, "\n  "))
}

// Environ is the process's environment. It is read here and nowhere else.
func Environ() map[string]string { return env.ToMap(os.Environ()) }

// ParseConfig returns the configuration of a role from an environment. Empty values count as not set. The error is a
// *ConfigError.
func ParseConfig(role Role, environ map[string]string) (Config, error) {
	set := map[string]string{}
	for key, value := range environ {
		if value = strings.TrimRight(value, "\r\n"); value != "" { // Files that secrets come from often end with a newline.
			set[key] = value
		}
	}
	cfg := Config{Role: role}
	var problems []string
	for _, s := range cfg.sections() {
		if err := env.ParseWithOptions(s.fields.Interface(), env.Options{Environment: set, Prefix: s.prefix}); err != nil {
			problems = append(problems, s.parseProblems(err, set)...)
		}
		s.trimLists()
	}
	if value, named := environ["ADMIN_ADDR"]; named && strings.TrimRight(value, "\r\n") == "" { // To the parser that means not set.
		cfg.Process.AdminAddr = ""
	}
	problems = append(problems, cfg.problems(problems)...)
	if len(problems) > 0 {
		slices.Sort(problems)
		return cfg, &ConfigError{problems}
	}
	return cfg, nil
}

// trimLists removes the blanks around the items of lists, and items that are nothing else.
func (s section) trimLists() {
	fields := s.fields.Elem()
	for i := range fields.NumField() {
		if list, ok := fields.Field(i).Addr().Interface().(*[]string); ok {
			for i, item := range *list {
				(*list)[i] = strings.TrimSpace(item)
			}
			*list = slices.DeleteFunc(*list, func(item string) bool { return item == "" })
		}
	}
}

// parseProblems returns the parser's errors in our own words.
func (s section) parseProblems(err error, set map[string]string) (problems []string) {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []string{err.Error()}
	}
	for _, err := range all.Errors {
		var missing env.VarIsNotSetError
		var wrong env.ParseError
		switch {
		case errors.As(err, &missing):
			problems = append(problems, missing.Key+" is required: "+settingNamed(missing.Key).help)
		case errors.As(err, &wrong):
			field, _ := s.fields.Type().Elem().FieldByName(wrong.Name)
			name := s.settingOf(field).name
			problems = append(problems, fmt.Sprintf("%s is %q; it takes %s", name, set[name], kindName(field.Type)))
		default:
			problems = append(problems, err.Error())
		}
	}
	return problems
}

func kindName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 30s or 5m"
	case t == reflect.TypeFor[auth.Rate]():
		return "a number and the time, such as 100/s, 5000/m or 1000/h"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "a number such as 0.25"
	default:
		return "a whole number"
	}
}

// problems returns the problems that the parser does not find. It leaves out settings that the parser has complained about.
func (c *Config) problems(parsed []string) (problems []string) {
	wantIn := func(prefix string) want {
		return func(ok bool, setting, format string, args ...any) {
			name := prefix + setting
			known := slices.ContainsFunc(parsed, func(p string) bool { return strings.HasPrefix(p, name+" ") })
			if !ok && !known {
				problems = append(problems, name+" "+fmt.Sprintf(format, args...))
			}
		}
	}
	for _, s := range c.sections() {
		s.fields.Interface().(checked).Check(wantIn(s.prefix))
	}
	if want := wantIn(""); c.Auth.Mode == authOff {
		want(c.Role == Dev, "AUTH_MODE", "is off; that is for cmd/dev alone: set it to required")
		want(c.Role != Dev || isLoopback(c.HTTP.Addr), "AUTH_MODE", "is off, so HTTP_ADDR must be a loopback address such as 127.0.0.1:8080, not %q", c.HTTP.Addr)
	}
	return problems
}
