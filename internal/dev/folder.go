package dev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const logLimit = 10 << 20

// canonical creates the folder and returns its one path, free of symbolic links: an orphaned server is identified by that
// path.
func canonical(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	// Others may pass through, because the user that PostgreSQL runs as may have to; they cannot look around.
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// lockFolder makes dir the folder of this process until the file that it returns is closed or the process ends.
func lockFolder(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(file)
		_ = file.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		return nil, fmt.Errorf("%s is in use by another process (pid %s): stop it, or set DATA_DIR to another folder",
			dir, strings.TrimSpace(string(holder)))
	}
	if err := writePid(file); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func writePid(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// writeSecret replaces a file that only its owner may read; a reader sees the old content or the new one.
func writeSecret(path, content string) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(fresh, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// openLog opens a log file to append to, emptied when it has grown past its limit.
func openLog(path string) (*os.File, error) {
	flags := os.O_RDWR | os.O_CREATE | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// saidBy returns an error from what a child printed before it failed: its last complaint, or a full disk as such.
func saidBy(name, output string) error {
	if strings.Contains(output, "No space left on device") {
		return fmt.Errorf("%s: %w", name, syscall.ENOSPC)
	}
	return fmt.Errorf("%s: %s", name, complaint(output))
}

// complaint returns the last line of an output that reports an error, with the details and hints that follow it; if there is
// none, the last line.
func complaint(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		text, found := after(lines[i], "PANIC:", "FATAL:", "error:")
		if !found {
			continue
		}
		for _, line := range lines[i+1:] {
			if more, found := after(line, "DETAIL:", "HINT:"); found {
				text += "; " + more
			}
		}
		return text
	}
	return lines[len(lines)-1]
}

func after(line string, marks ...string) (text string, found bool) {
	for _, mark := range marks {
		if _, text, found := strings.Cut(line, mark); found {
			return strings.TrimSpace(text), true
		}
	}
	return "", false
}

// explain converts an error about the folder into the line that states what to do about it.
func explain(dir string, err error) error {
	// Of a download that failed only the text is left.
	if errors.Is(err, syscall.EDQUOT) || strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		return fmt.Errorf("no space left on the disk that holds %s: free some or set DATA_DIR to another folder", dir)
	}
	var path *fs.PathError
	if errors.As(err, &path) && path.Op != "fork/exec" {
		return fmt.Errorf("cannot use %s (%w): mend its permissions or set DATA_DIR to another folder", dir, err)
	}
	return err
}
