package dev

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

const versitygw = "github.com/versity/versitygw"

// build returns the path of a versitygw of the version that tools/go.mod names, and builds it if it does not exist.
func (s *s3) build(ctx context.Context) (string, error) {
	root, version, err := pinned()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(s.dir, "bin", "versitygw")
	if info, err := buildinfo.ReadFile(bin); err == nil && info.Main.Version == version {
		return bin, nil
	}
	compiler := lookPath(s.env, "go")
	if compiler == "" {
		return "", errors.New("it has to be built and there is no go in PATH: add it, or set S3_ENDPOINT")
	}
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return "", explain(s.dir, err)
	}
	fmt.Fprintln(s.out, "building the S3 server once, about a minute: files can be used when it is done")
	if err := s.compile(ctx, root, compiler, bin+".new"); err != nil {
		return "", err
	}
	if err := os.Rename(bin+".new", bin); err != nil {
		return "", explain(s.dir, err)
	}
	fmt.Fprintf(s.out, "the S3 server is built and starts on %s\n", s.endpoint())
	return bin, nil
}

// compile runs the go command, at a low priority because the service starts meanwhile. It is tied to us with all the
// compilers that it starts, which would outlive a killed go command.
func (s *s3) compile(ctx context.Context, root, compiler, target string) error {
	cmd, untie, err := tied("nice", "-n", "10", compiler, "build", "-modfile=tools/go.mod", "-o", target,
		versitygw+"/cmd/versitygw")
	if err != nil {
		return err
	}
	defer untie()
	cmd.Dir = root
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Env = append(cmd.Env, "GOWORK=off") // a workspace does not go with -modfile
	if output, err := runChild(ctx, cmd); err != nil {
		return fmt.Errorf("it cannot be built (%w): %s", err, complaint(output))
	}
	return nil
}

// pinned finds the checkout around the working directory, and the version of versitygw in its tools/go.mod.
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

// lookPath finds an executable in the PATH of env; "" when there is none.
func lookPath(env map[string]string, name string) string {
	for _, dir := range filepath.SplitList(env["PATH"]) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
