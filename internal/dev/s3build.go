package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"plinth/internal/loop"
)

const (
	versitygw = "github.com/versity/versitygw"
	lockPoll  = 200 * time.Millisecond
)

// S3Program returns the path of the versitygw that tools/go.mod names. The first process that needs it builds it, for all
// checkouts and processes of the user, in the user's cache folder; others that need it meanwhile wait for it. env has the PATH
// of the go command; out gets a line for a person before a build and after it.
func S3Program(ctx context.Context, env map[string]string, out io.Writer) (string, error) {
	root, version, err := pinned()
	if err != nil {
		return "", err
	}
	dir, err := programs(env)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "versitygw-"+version)
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	unlock, err := lockPrograms(ctx, dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(bin); err == nil { // Who had the lock has built it.
		return bin, nil
	}
	compiler := lookPath(env, "go")
	if compiler == "" {
		return "", errors.New("it has to be built and there is no go in PATH: add it, or set S3_ENDPOINT")
	}
	fmt.Fprintln(out, "building the S3 server once, about two minutes: files can be used when it is done")
	if err := compile(ctx, env, root, compiler, bin+".new"); err != nil {
		return "", err
	}
	if err := os.Rename(bin+".new", bin); err != nil {
		return "", err
	}
	fmt.Fprintln(out, "the S3 server is built")
	return bin, nil
}

// programs returns the folder of the programs that are built once for the user.
func programs(env map[string]string) (string, error) {
	cache := env["XDG_CACHE_HOME"]
	if !filepath.IsAbs(cache) {
		var err error
		if cache, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("there is no folder to build it in (%w): set HOME, or S3_ENDPOINT", err)
		}
	}
	dir := filepath.Join(cache, "plinth")
	return dir, os.MkdirAll(dir, 0o755)
}

// lockPrograms blocks until no other process builds in dir, or ctx ends. A lock ends with the process that holds it.
func lockPrograms(ctx context.Context, dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	unlock = func() { _ = file.Close() }
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			unlock()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		if !loop.Sleep(ctx, lockPoll) {
			unlock()
			return nil, ctx.Err()
		}
	}
}

// compile runs the go command. It is tied to us with all the compilers that it starts, which would outlive a killed go command.
func compile(ctx context.Context, env map[string]string, root, compiler, target string) error {
	cmd, untie, err := tied(compiler, "build", "-modfile=tools/go.mod", "-o", target, versitygw+"/cmd/versitygw")
	if err != nil {
		return err
	}
	defer untie()
	cmd.Dir = root
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Env = append(cmd.Env, "GOWORK=off") // -modfile is not allowed in a workspace
	if output, err := runChild(ctx, cmd); err != nil {
		return fmt.Errorf("it cannot be built (%w): %s", err, complaint(output))
	}
	return nil
}

// pinned returns the root of the checkout that the working directory is in, and the version of versitygw in its
// tools/go.mod.
func pinned() (root, version string, err error) {
	here, err := os.Getwd()
	if err != nil {
		return "", "", err
	}
	for root = here; ; root = filepath.Dir(root) {
		tools, err := os.ReadFile(filepath.Join(root, "tools", "go.mod"))
		if err == nil {
			match := regexp.MustCompile(`(?m)^\s*(?:require )?` + versitygw + ` (v\S+)`).FindSubmatch(tools)
			if match != nil {
				return root, string(match[1]), nil
			}
		}
		if root == filepath.Dir(root) {
			return "", "", fmt.Errorf("%s is not in a checkout with tools/go.mod, which names what to build: set S3_ENDPOINT", here)
		}
	}
}

// lookPath returns the path of an executable in the PATH of env, "" if there is none.
func lookPath(env map[string]string, name string) string {
	for _, dir := range filepath.SplitList(env["PATH"]) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
