package fleet

import (
	"os/exec"
	"runtime"
)

// launcher starts processes from one thread that lives as long as the fleet.
// Linux sends the death signal (see attributes) when the *thread* that started
// a process ends, and Go ends threads as it likes.
type launcher struct {
	requests chan launch
	done     chan struct{}
}

type launch struct {
	cmd *exec.Cmd
	err chan error
}

func newLauncher() *launcher {
	l := &launcher{requests: make(chan launch), done: make(chan struct{})}
	go l.run()
	return l
}

func (l *launcher) run() {
	defer close(l.done)
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	for r := range l.requests {
		r.err <- r.cmd.Start()
	}
}

func (l *launcher) start(cmd *exec.Cmd) error {
	r := launch{cmd: cmd, err: make(chan error, 1)}
	l.requests <- r
	return <-r.err
}

// close ends the thread; no start may follow.
func (l *launcher) close() {
	close(l.requests)
	<-l.done
}
