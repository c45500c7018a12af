package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// narrator writes what happens, when it happens.
type narrator struct {
	out     io.Writer
	asJSON  bool
	started time.Time

	mu     sync.Mutex
	number int
	title  string
}

// event is one line with --json.
type event struct {
	Seconds float64 `json:"seconds"`
	Step    int     `json:"step"`
	Title   string  `json:"title,omitempty"`
	Who     string  `json:"who,omitempty"`
	Text    string  `json:"text,omitempty"`
	Data    any     `json:"data,omitempty"`
}

func newNarrator(out io.Writer, asJSON bool) *narrator {
	return &narrator{out: out, asJSON: asJSON, started: time.Now()}
}

// step begins the next step of the story.
func (n *narrator) step(title string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.number++
	n.title = title
	if n.asJSON {
		n.write(event{})
		return
	}
	_, _ = fmt.Fprintf(n.out, "\n%d. %s\n", n.number, title)
}

// say tells one thing that has happened to somebody.
func (n *narrator) say(who, format string, args ...any) {
	n.tell(event{Who: who, Text: fmt.Sprintf(format, args...)})
}

// tell is say with data for a program beside the text.
func (n *narrator) tell(e event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.asJSON {
		n.write(e)
		return
	}
	if e.Data != nil { // a table needs its lines to itself
		_, _ = fmt.Fprintf(n.out, "\n%s\n", e.Text)
		return
	}
	_, _ = fmt.Fprintf(n.out, "  %5.2f s  %-10s %s\n", n.now(), e.Who, e.Text)
}

// write writes one event; the lock is held. Who reads the story may be gone,
// which is no reason to stop it half-way.
func (n *narrator) write(e event) {
	e.Seconds, e.Step, e.Title = n.now(), n.number, n.title
	_ = json.NewEncoder(n.out).Encode(e)
}

func (n *narrator) now() float64 {
	return float64(time.Since(n.started).Milliseconds()) / 1000
}
