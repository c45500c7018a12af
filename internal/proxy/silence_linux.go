package proxy

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// silence reports how long ago the other end last acknowledged anything, and
// whether it has been sent data repeatedly since. Where it keeps its window shut
// there is nothing to repeat: Linux sends probes, ever more rarely, so that
// silence alone means little. Twice, because the first may be due at once after
// this machine was suspended.
func silence(conn *net.TCPConn) (since time.Duration, unanswered bool, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	var info *unix.TCPInfo
	var failed error
	err = raw.Control(func(fd uintptr) {
		info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return 0, false, err
	}
	return time.Duration(info.Last_ack_recv) * time.Millisecond, info.Unacked > 0 && info.Retransmits >= 2, nil
}
