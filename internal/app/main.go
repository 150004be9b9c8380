package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"plinth/internal/auth"
	"plinth/internal/observe"
	"plinth/internal/rpc"
)

// Main is the main function of the binaries: it prints the help, the version or a new API key, or parses the configuration and runs until
// a signal.
func Main(role Role) {
	Arguments(role)
	environ := Environ()
	cfg, err := ParseConfig(role, environ)
	if err != nil {
		Exit(err)
	}
	if environ["GOGC"] == "" {
		debug.SetGCPercent(rpc.GCPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // The second signal ends the process at once.
	Exit(Run(ctx, cfg))
}

// Arguments ends the process if its command line has arguments: with what they ask for, or with an error if they are not known.
func Arguments(role Role) {
	if len(os.Args) > 1 {
		Exit(arguments(role, os.Args[1:]))
	}
}

func arguments(role Role, args []string) error {
	switch args[0] {
	case "-help", "--help", "-h":
		help(os.Stdout, role)
		return nil
	case "-version", "--version":
		fmt.Println("plinth", role, observe.ReadBuild())
		return nil
	case "-new-key", "--new-key":
		fmt.Println(auth.NewKey())
		return nil
	}
	return &ConfigError{[]string{fmt.Sprintf("argument %q is not known: settings come from the environment", args[0])}}
}

// Exit ends the process with status 0 for nil, 2 for a *ConfigError, and 1 for any other error. It prints the error.
func Exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "plinth:", err)
	var config *ConfigError
	if errors.As(err, &config) {
		os.Exit(2)
	}
	os.Exit(1)
}
