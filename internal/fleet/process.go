package fleet

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopGrace is how long a process has to end after SIGTERM before SIGKILL: the
// 3 s that this project promises, and some for the host around it.
const stopGrace = 6 * time.Second

// Spec describes a process.
type Spec struct {
	Name string // names its log file; unique within the fleet
	Path string
	Args []string
	Env  []string // added to this process's own environment
	Dir  string   // default the fleet's folder
}

// Process is a running process, or one that has ended.
type Process struct {
	Name string
	Pid  int

	cmd     *exec.Cmd
	logFile string
	log     func(msg string, args ...any)
	done    chan struct{}
}

// Start starts a process whose output goes to a file of its own.
func (f *Fleet) Start(spec Spec) (*Process, error) {
	out, err := os.Create(filepath.Join(f.dir, spec.Name+".log"))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	defer func() { _ = out.Close() }()           // the child has its own descriptor
	cmd := exec.Command(spec.Path, spec.Args...) //nolint:noctx // its life is the fleet's: SIGTERM first, not the SIGKILL of a context
	cmd.Dir = spec.Dir
	if cmd.Dir == "" {
		cmd.Dir = f.dir
	}
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = attributes()

	// Under the lock, so that Close either sees the process or prevents it.
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, ErrClosed
	}
	if err := f.launcher.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	p := &Process{Name: spec.Name, Pid: cmd.Process.Pid, cmd: cmd, logFile: out.Name(), log: f.log.Debug, done: make(chan struct{})}
	f.processes = append(f.processes, p)
	p.log("process started", "name", p.Name, "pid", p.Pid)
	go p.wait()
	return p, nil
}

// wait reaps the process; Stop and Kill wait for it.
func (p *Process) wait() {
	defer close(p.done)
	_ = p.cmd.Wait() // how it ended is in ProcessState
	p.log("process ended", "name", p.Name, "pid", p.Pid, "state", p.cmd.ProcessState.String())
}

// Done is closed once the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ExitCode returns the exit code of an ended process; -1 while it runs or when
// a signal ended it.
func (p *Process) ExitCode() int {
	if p.Running() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal: SIGSTOP and SIGCONT, say.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Catches returns an error unless a process has a handler of a signal (proc(5):
// SigCgt).
func Catches(pid int, sig syscall.Signal) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return fmt.Errorf("signals of process %d: %w", pid, err)
	}
	_, after, _ := strings.Cut(string(status), "\nSigCgt:\t")
	mask, _, _ := strings.Cut(after, "\n")
	caught, err := strconv.ParseUint(mask, 16, 64)
	if err != nil {
		return fmt.Errorf("signals of process %d: %w", pid, err)
	}
	if caught&(1<<(sig-1)) == 0 {
		return fmt.Errorf("process %d does not catch %v yet", pid, sig)
	}
	return nil
}

// Kill ends the process with SIGKILL and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails only for a process that has ended
	<-p.done
}

// Stop ends the process with SIGTERM, and with SIGKILL if that takes too long,
// and waits for it.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // a stopped process would not see the first
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.Kill()
	}
}

// Log returns what the process has written so far, at most the last n bytes.
func (p *Process) Log(n int64) string {
	file, err := os.Open(p.logFile)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil && info.Size() > n {
		_, _ = file.Seek(-n, io.SeekEnd)
	}
	raw, _ := io.ReadAll(io.LimitReader(file, n))
	return string(raw)
}

// EndedError says that a process ended that should be running.
type EndedError struct {
	Name  string
	State string // how it ended: exit status or signal
	Log   string // the end of its log
}

// Error implements error.
func (e *EndedError) Error() string {
	return fmt.Sprintf("%s has ended (%s):\n%s", e.Name, e.State, e.Log)
}

// alive returns an *EndedError once the process has ended.
func (p *Process) alive() error {
	if p.Running() {
		return nil
	}
	return &EndedError{Name: p.Name, State: p.cmd.ProcessState.String(), Log: strings.TrimSpace(p.Log(2 << 10))}
}
