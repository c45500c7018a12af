package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// Options says which story is told, and to whom.
type Options struct {
	// Orthanc picks the cast of real Orthancs; Plugin is then the path of
	// libOrthancDicomWebOAuth.so.
	Orthanc bool
	Plugin  string
	// Binary is the orthanc-oauth that runs as sidecars in the other cast;
	// default this program.
	Binary string
	// Backend is gossip (the default), redis or memory.
	Backend string
	// JSON writes one event a line instead of text.
	JSON bool
	// Keep leaves the folder with logs and configurations behind.
	Keep bool
	Out  io.Writer
	Log  *slog.Logger // of the launcher; nil: none
}

// budget bounds the whole story, so that a hang is a failure with a reason.
const budget = 90 * time.Second

// Run tells the story. It returns nil only if everything it shows was true, and
// leaves no process, port or file behind, whatever happens.
func Run(ctx context.Context, opts Options) (err error) {
	if opts.Backend == "" {
		opts.Backend = gossipBackend
	}
	tools := fleet.Find()
	if err := opts.check(tools); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, budget, fmt.Errorf("the story took longer than %v", budget))
	defer cancel()
	f, err := fleet.New(ctx, fleet.Options{Log: opts.Log, Keep: opts.Keep})
	if err != nil {
		return err
	}
	defer f.Close()
	s := &story{opts: opts, fleet: f, narrator: newNarrator(opts.Out, opts.JSON), close: func() {}}
	defer func() { s.close() }() // as prepare leaves it
	if err := s.prepare(ctx, tools); err != nil {
		return reason(ctx, err)
	}
	if err := s.play(ctx); err != nil {
		s.autopsy(ctx, err)
		return reason(ctx, err)
	}
	return s.end()
}

// check refuses before anything is started what cannot work.
func (o Options) check(tools fleet.Tools) error {
	switch o.Backend {
	case gossipBackend, memoryBackend:
	case redisBackend:
		if tools.Redis == "" {
			return errors.New("backend redis needs Debian's package redis-server")
		}
	default:
		return fmt.Errorf("backend %q: allowed are gossip, redis and memory", o.Backend)
	}
	if !o.Orthanc {
		return nil
	}
	if missing := tools.Missing(o.Backend == redisBackend); len(missing) > 0 {
		return fmt.Errorf("the demo with real Orthancs needs Debian's packages: %s; `make demo` installs them, and without --orthanc none is needed", strings.Join(missing, " "))
	}
	if _, err := os.Stat(o.Plugin); err != nil {
		return fmt.Errorf("the plugin: %w; `make build` builds it", err)
	}
	return nil
}

// reason prefers why the context ended to what that broke.
func reason(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, context.Canceled):
		return errors.New("interrupted; everything that was started has been ended")
	case cause != nil:
		return fmt.Errorf("%w; it was at: %w", cause, err)
	}
	return err
}

// story is one telling.
type story struct {
	*narrator
	opts    Options
	fleet   *fleet.Fleet
	cast    cast
	fixture fixture
	idp     *idptest.IdP
	gate    *idptest.Gate
	close   func() // of what prepare opened in this process

	members  []*member // in the order of their names
	expected int       // token requests the provider must have counted by now
}

// play runs the steps, each of which asserts what it shows.
func (s *story) play(ctx context.Context) error {
	for _, step := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{s.joinTitle(), s.join},
		{"A study goes out, comes back and is found, on each", s.exchange},
		{s.lossTitle(), s.lose},
		{"The token rolls over in the background while sends go on", s.rollOver},
		{"The remote revokes the token; the send after that succeeds", s.revoke},
		{"The books", s.books},
	} {
		s.step(step.title)
		if err := step.tell(ctx); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(step.title), err)
		}
	}
	return nil
}

// end takes everything down and looks whether anything is left.
func (s *story) end() error {
	s.close()
	processes := s.fleet.Processes()
	s.fleet.Close()
	for _, p := range processes {
		if p.Running() {
			return fmt.Errorf("process %s (%d) is left behind", p.Name, p.Pid)
		}
	}
	if _, err := os.Stat(s.fleet.Dir()); !s.opts.Keep && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the folder %s is left behind", s.fleet.Dir())
	}
	if s.opts.Keep {
		s.say("", "logs and configurations are kept in %s", s.fleet.Dir())
	}
	s.say("", "%d processes ended, nothing left behind", len(processes))
	return nil
}

// autopsy shows the last words of every process after a failure, unless
// somebody pressed Ctrl-C or the error holds them already.
func (s *story) autopsy(ctx context.Context, err error) {
	_, ended := errors.AsType[*fleet.EndedError](err)
	if ended || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	for _, p := range s.fleet.Processes() {
		s.say(p.Name, "last lines of its log:\n%s", indent(lastLines(p.Log(4<<10), 12)))
	}
}

func lastLines(text string, n int) []string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[max(0, len(lines)-n):]
}

func indent(lines []string) string { return "    " + strings.Join(lines, "\n    ") }
