package e2e

import (
	"fmt"
	"os"
	"regexp"
	"sync"
)

// transcripts are the logs of all processes of the run. They are global because TestMain searches them at the end.
var transcripts struct {
	mu  sync.Mutex
	all []*transcript
}

func remember(l *transcript) {
	transcripts.mu.Lock()
	defer transcripts.mu.Unlock()
	transcripts.all = append(transcripts.all, l)
}

// secret matches what no log may hold: a whole API key, a JWT, a credential of a request, or the password of a URL.
var secret = regexp.MustCompile(`plinth_[0-9A-Za-z]{38}|eyJ[\w-]{10,}\.[\w-]{10,}\.|(?i:bearer) [\w-]{8,}|://[^/@:\s"]+:[^/@\s"]+@`)

// secretsInLogs searches every line that a process of the run has logged. It returns the number of lines, so that a run
// which logged nothing does not pass for a clean one.
func secretsInLogs() (lines int, err error) {
	transcripts.mu.Lock()
	defer transcripts.mu.Unlock()
	for _, l := range transcripts.all {
		all, _ := l.from(0)
		lines += len(all)
		for _, line := range all {
			if found := secret.FindString(line); found != "" {
				return lines, fmt.Errorf("a log has %.12q... in the line: %s", found, secret.ReplaceAllString(line, "[secret]"))
			}
		}
	}
	return lines, nil
}

// checkSecrets returns the exit status of the run: status if no secret was logged.
func checkSecrets(status int) int {
	lines, err := secretsInLogs()
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	if len(transcripts.all) > 0 {
		fmt.Fprintf(os.Stderr, "no secret in %d lines of %d logs\n", lines, len(transcripts.all))
	}
	return status
}
