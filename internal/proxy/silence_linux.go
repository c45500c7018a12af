package proxy

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// silence reports how long ago the other end last acknowledged anything, and
// whether it has been sent data in vain since. That is data which was repeated,
// or which this host could not send at all, because it has lost the address or
// the route: Linux then tries as it probes a window that is shut, though the
// window is open. Where the other end does keep it shut there is nothing to
// repeat, and the probes become ever rarer, so that silence alone means little.
// Twice, because the first may be due at once after this machine was suspended.
func silence(conn *net.TCPConn) (since time.Duration, inVain bool, err error) {
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
	repeated := info.Unacked > 0 && info.Retransmits >= 2
	fits := info.Notsent_bytes > 0 && info.Snd_wnd >= min(info.Notsent_bytes, info.Snd_mss)
	stuck := info.Unacked == 0 && fits && info.Probes >= 2
	return time.Duration(info.Last_ack_recv) * time.Millisecond, repeated || stuck, nil
}
