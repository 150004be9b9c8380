package e2e

import (
	"fmt"
	"os"
	"regexp"
	"sync"
)

// transcripts are the logs of all processes of the run. TestMain, which looks through them at the end, has no other way to
// come by them.
var transcripts struct {
	mu  sync.Mutex
	all []*transcript
}

func remember(l *transcript) {
	transcripts.mu.Lock()
	defer transcripts.mu.Unlock()
	transcripts.all = append(transcripts.all, l)
}

// secret is what no log may hold: a whole API key, a JWT, a credential on its way, and the password of a URL.
var secret = regexp.MustCompile(`plinth_[0-9A-Za-z]{38}|eyJ[\w-]{10,}\.[\w-]{10,}\.|(?i:bearer) [\w-]{8,}|://[^/@:\s"]+:[^/@\s"]+@`)

// secretsInLogs looks through every line that a process of the run has logged. How many there are is told, so that a run
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

// checkSecrets gives the exit status of a run whose tests had the status.
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
