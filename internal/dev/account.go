package dev

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user that PostgreSQL runs as. The zero account is our own user.
type account struct {
	credential *syscall.Credential
}

// accountFor returns the account to run as: our own, unless we are root, which PostgreSQL refuses. For root it is the owner
// of home or, if home does not exist, the user postgres, or else nobody.
func accountFor(home string) (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	if info, err := os.Stat(home); err == nil {
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 0 {
			return account{&syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(found.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(found.Gid, 10, 32)
		if errUID == nil && errGID == nil {
			return account{&syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
		}
	}
	return account{}, fmt.Errorf("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as: " +
		"run as another user, or set DATABASE_URL")
}

// own changes the owner of a file or folder of ours to the account.
func (a account) own(path string) error {
	if a.credential == nil {
		return nil
	}
	return os.Chown(path, int(a.credential.Uid), int(a.credential.Gid))
}

// command returns a command that runs as the account and works on paths below dir. Its environment has nothing that could
// change what PostgreSQL does, or the language of its messages.
func (a account) command(env map[string]string, dir, name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + env["PATH"]}
	cmd.Dir = "/" // our working directory may be closed to the account
	if a.credential == nil {
		return cmd, nil
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.credential}
	if enterAnyFolder(cmd.SysProcAttr) {
		// The capability works from the first exec on, so that one is of a shell, and the next may be in a closed folder.
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `exec "$0" "$@"`}, cmd.Args...)
		return cmd, nil
	}
	for _, path := range []string{dir, filepath.Dir(name)} {
		if closed := closedFolder(path, *a.credential); closed != "" {
			return nil, fmt.Errorf("PostgreSQL runs as uid %d here, which cannot enter %s: open that folder (chmod o+x), "+
				"or set DATA_DIR to a folder outside of it", a.credential.Uid, closed)
		}
	}
	return cmd, nil
}

// closedFolder returns the first folder on the way to path, path included, that the user may not enter; "" if there is none.
func closedFolder(path string, who syscall.Credential) string {
	if parent := filepath.Dir(path); parent != path {
		if closed := closedFolder(parent, who); closed != "" {
			return closed
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return path
	}
	search := os.FileMode(0o001)
	switch owner := info.Sys().(*syscall.Stat_t); {
	case owner.Uid == who.Uid:
		search = 0o100
	case owner.Gid == who.Gid:
		search = 0o010
	}
	if info.Mode()&search == 0 {
		return path
	}
	return ""
}
