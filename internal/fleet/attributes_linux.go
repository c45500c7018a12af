package fleet

import "syscall"

// attributes puts a process into a group of its own, so that a Ctrl-C at the
// terminal reaches only this process, which then ends the others in order; and
// lets the kernel kill it should this process die first.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
