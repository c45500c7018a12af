package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// resources is what a process holds.
type resources struct{ descriptors, threads int }

func (r resources) String() string {
	return fmt.Sprintf("%d descriptors, %d threads", r.descriptors, r.threads)
}

func resourcesOf(t *testing.T, p *fleet.Process) resources {
	t.Helper()
	proc := "/proc/" + strconv.Itoa(p.Pid)
	descriptors, err := os.ReadDir(proc + "/fd")
	must(t, err)
	threads, err := os.ReadDir(proc + "/task")
	must(t, err)
	return resources{len(descriptors), len(threads)}
}

// restarts are the two ways to unload and load plugins within one process.
var restarts = []struct {
	name string
	do   func(ctx context.Context, w *world, o *fleet.Orthanc) error
}{
	{"reset", func(ctx context.Context, _ *world, o *fleet.Orthanc) error {
		_, err := o.Do(ctx, http.MethodPost, "/tools/reset", "", nil)
		return err
	}},
	{"hangup", func(_ context.Context, w *world, o *fleet.Orthanc) error {
		if err := w.rename(o); err != nil {
			return err
		}
		return o.Signal(syscall.SIGHUP)
	}},
}

// rename changes an Orthanc's configuration, which it compares with the old one
// before it takes notice of SIGHUP.
func (w *world) rename(o *fleet.Orthanc) error {
	name := o.Name + ".json"
	raw, err := os.ReadFile(filepath.Join(w.fleet.Dir(), name))
	if err != nil {
		return err
	}
	var conf map[string]any
	if err := json.Unmarshal(raw, &conf); err != nil {
		return err
	}
	conf["Name"] = randomWord()
	if raw, err = json.Marshal(conf); err != nil {
		return err
	}
	_, err = w.fleet.WriteFile(name, raw)
	return err
}

// restartsEach is how often each way is taken. The first round fills what is
// kept for good (threads of the Go runtime, which never end); growth after that
// is a leak.
const restartsEach = 5

// Row 57, in a real process and with a cluster to leave and to join again.
func TestRestart_InOneProcessWorksEveryTimeAndLeaksNothing(t *testing.T) {
	t.Parallel()
	tools := needOrthanc(t)
	w := newWorld(t, worldOptions{})
	ports := []int{w.port(t), w.port(t)}
	peer := w.sidecar(t, "peer", w.section("gossip", map[string]any{"Gossip": w.gossip("peer", ports[0], ports...)}))
	o := w.orthanc(t, tools, "orthanc", w.section("gossip", map[string]any{"Gossip": w.gossip("orthanc", ports[1], ports...)}), nil)
	together(t, peer.Client, o.Client)
	must(t, works(t.Context(), peer, archive))

	var settled, most resources
	for round := range restartsEach {
		for _, r := range restarts {
			w.restart(t, o, r.do)
			eventually(t, func(ctx context.Context) error { return allSee(ctx, 2, peer.Client, o.Client) })
			if _, err := o.Query(t.Context(), archive, study(1, 1)); err != nil {
				t.Fatalf("after %s %d: %v", r.name, round+1, err)
			}
			now := resourcesOf(t, o.Process)
			if round == 0 {
				settled = resources{max(settled.descriptors, now.descriptors), max(settled.threads, now.threads)}
			}
			most = now
			t.Logf("after %s %d: %v", r.name, round+1, now)
		}
	}
	// A leak would show once in each of the 8 restarts since.
	if most.descriptors >= settled.descriptors+4 || most.threads >= settled.threads+4 {
		t.Errorf("after %d restarts: %v, after the first two %v", 2*restartsEach, most, settled)
	}
	// The peer had the token all the time.
	w.counted(t, 1)
}

// lostAfter is for a request whose connection came while Orthanc stopped: it may
// stay open and never be answered.
const lostAfter = 2 * time.Second

// restart restarts Orthanc within its process and waits for the plugin's new
// life, which registers another loopback port.
func (w *world) restart(t *testing.T, o *fleet.Orthanc, do func(context.Context, *world, *fleet.Orthanc) error) {
	t.Helper()
	before, err := registration(t.Context(), o)
	must(t, err)
	must(t, do(t.Context(), w, o))
	eventually(t, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, lostAfter)
		defer cancel()
		after, err := registration(ctx, o)
		if err != nil {
			return err
		}
		if bytes.Equal(before, after) || !bytes.Contains(after, []byte(archive)) {
			return errors.New("not registered anew")
		}
		return nil
	})
}

func registration(ctx context.Context, o *fleet.Orthanc) ([]byte, error) {
	return o.Do(ctx, http.MethodGet, "/dicom-web/servers?expand", "", nil)
}

// terminate sends SIGTERM and returns how long the process takes to end.
func terminate(t *testing.T, o *fleet.Orthanc) time.Duration {
	t.Helper()
	begin := time.Now()
	must(t, o.Signal(syscall.SIGTERM))
	select {
	case <-o.Done():
	case <-time.After(patience):
		t.Fatalf("%s does not end", o.Name)
	}
	if code := o.ExitCode(); code != 0 {
		t.Errorf("%s: exit code %d", o.Name, code)
	}
	return time.Since(begin)
}

// endsLater is how much longer than Orthanc alone the end may take.
const endsLater = time.Second

func TestRestart_AHungRemoteDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	tools := needOrthanc(t)
	w := newWorld(t, worldOptions{})
	alone := make([]time.Duration, 3)
	for i := range alone {
		o, err := w.fleet.Orthanc(t.Context(), fleet.OrthancConfig{Tools: tools, Name: fmt.Sprintf("alone-%d", i), Plugins: []string{tools.DicomWeb}})
		must(t, err)
		alone[i] = terminate(t, o)
	}
	own := slices.Max(alone)

	o := w.orthanc(t, tools, "orthanc", w.section("memory"), nil)
	w.gate.Script(idptest.GateScript{Delay: time.Hour})
	hung := make(chan error, 1)
	go func() {
		_, err := o.Query(context.WithoutCancel(t.Context()), archive, study(1, 1))
		hung <- err
	}()
	eventually(t, func(context.Context) error {
		if w.gate.Counts().Accepted == 0 {
			return errors.New("no request hangs yet")
		}
		return nil
	})
	took := terminate(t, o)
	if err := <-hung; err == nil {
		t.Error("the request that hung was answered")
	}
	t.Logf("Orthanc alone needs up to %v, with the plugin and a hung remote %v", own, took)
	if took > own+endsLater {
		t.Errorf("the end took %v, Orthanc alone needs %v", took, own)
	}
}
