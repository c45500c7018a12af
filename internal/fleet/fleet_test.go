package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("FLEET_TEST_PARENT") != "" {
		parent()
		return
	}
	goleak.VerifyTestMain(m)
}

// parent is the process that TestFleet_DiesWithItsParent kills: it prints the
// process id of its child and waits.
func parent() {
	f, err := New(context.Background(), Options{})
	if err != nil {
		panic(err)
	}
	p, err := f.Start(Spec{Name: "child", Path: "/bin/sh", Args: []string{"-c", "exec sleep 1000"}})
	if err != nil {
		panic(err)
	}
	_ = os.RemoveAll(f.Dir()) // nobody will be left to do it
	fmt.Printf("child %d\n", p.Pid)
	<-p.Done()
}

func newFleet(t *testing.T) *Fleet {
	t.Helper()
	f, err := New(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func shell(t *testing.T, f *Fleet, name, script string) *Process {
	t.Helper()
	p, err := f.Start(Spec{Name: name, Path: "/bin/sh", Args: []string{"-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// says waits until a process has written text.
func says(t *testing.T, p *Process, text string) {
	t.Helper()
	err := Eventually(t.Context(), 10*time.Second, func(context.Context) error {
		if log := p.Log(1 << 10); !strings.Contains(log, text) {
			return errors.New("log is " + log)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func gone(t *testing.T, p *Process) {
	t.Helper()
	if err := syscall.Kill(p.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("%s (%d) is still there: %v", p.Name, p.Pid, err)
	}
}

func TestClose_EndsEveryProcessAndRemovesTheFolder(t *testing.T) {
	f := newFleet(t)
	obedient := shell(t, f, "obedient", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
	stopped := shell(t, f, "stopped", "exec sleep 1000")
	says(t, obedient, "up")
	if err := stopped.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	f.Close()
	gone(t, obedient)
	gone(t, stopped)
	if obedient.ExitCode() != 7 {
		t.Errorf("exit code %d: it was not asked first", obedient.ExitCode())
	}
	if _, err := os.Stat(f.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder: %v", err)
	}
	if _, err := f.Start(Spec{Name: "late", Path: "/bin/true"}); err == nil {
		t.Error("a closed fleet starts processes")
	}
	f.Close()
}

func TestNew_TheEndOfTheContextEndsTheFleet(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f, err := New(ctx, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := shell(t, f, "p", "exec sleep 1000")
	cancel()
	<-p.Done()
	f.Close() // waits for the end that the context began
	if _, err := os.Stat(f.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder: %v", err)
	}
}

func TestFleet_DiesWithItsParent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := newFleet(t).Start(Spec{Name: "parent", Path: self, Env: []string{"FLEET_TEST_PARENT=1"}})
	if err != nil {
		t.Fatal(err)
	}
	says(t, p, "child ")
	var child Process
	if _, err := fmt.Sscanf(p.Log(1<<10), "child %d", &child.Pid); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	err = Eventually(t.Context(), 10*time.Second, func(context.Context) error {
		if state := processState(child.Pid); state != "" && state != "Z" {
			return fmt.Errorf("child is in state %s", state)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// processState returns the kernel's letter for the state of a process, or
// nothing once it is gone. A zombie is dead: who reaps it is not ours to say.
func processState(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	state, _, _ := strings.Cut(rest, " ")
	return state
}

func TestKill_IsSudden(t *testing.T) {
	p := shell(t, newFleet(t), "p", "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")
	says(t, p, "up")
	p.Kill()
	gone(t, p)
	if p.Running() || p.ExitCode() != -1 {
		t.Errorf("running %v, exit code %d", p.Running(), p.ExitCode())
	}
}

func TestPort_IsHandedOutOnce(t *testing.T) {
	f := newFleet(t)
	seen := map[int]bool{}
	for range 50 {
		p, err := f.Port()
		if err != nil || seen[p] || p < firstPort || p >= lastPort {
			t.Fatalf("port %d, %v", p, err)
		}
		seen[p] = true
	}
}

func TestEventually_ReportsTheLastError(t *testing.T) {
	n := 0
	err := Eventually(t.Context(), 100*time.Millisecond, func(context.Context) error {
		n++
		return errors.New("not yet")
	})
	if err == nil || !strings.Contains(err.Error(), "not yet") || n < 2 {
		t.Errorf("after %d tries: %v", n, err)
	}
	if err := Eventually(t.Context(), time.Minute, func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
	hopeless := errors.New("hopeless")
	if err := Eventually(t.Context(), time.Minute, func(context.Context) error { return Final(hopeless) }); !errors.Is(err, hopeless) {
		t.Error(err)
	}
}
