//go:build !linux

package fleet

import "syscall"

// attributes has no death signal to offer here.
func attributes() *syscall.SysProcAttr { return nil }
