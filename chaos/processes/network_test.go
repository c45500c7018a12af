//go:build chaos

package processes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// place is where sockets and processes live: a network namespace, or the
// machine itself with a loopback address of its own.
type place struct {
	name string // of the namespace; empty: the machine itself
	addr string // where others reach this place
	port string // on the bridge, of the cable to this place
}

// subnet holds the addresses inside the namespaces; none of them exists outside.
const subnet = "10.231.0."

// netnsPrefix begins the names of all namespaces; the pid of their maker
// follows, so that a later run knows what a crashed one left behind.
const netnsPrefix = "oauth-chaos-"

const netnsDir = "/run/netns"

// network is a hub for the outside world and a place for every node.
type network struct {
	real  bool // namespaces: cables can be pulled and packets dropped
	hub   place
	nodes []place
}

// newNetwork makes namespaces where it can. Why it could not is in the error,
// and the network then stands on loopback.
func newNetwork(n int) (*network, error) {
	sweep()
	w, err := newNamespaces(n)
	if err == nil {
		return w, nil
	}
	w.close()
	loop := &network{hub: place{addr: "127.0.0.1"}}
	for i := range n {
		loop.nodes = append(loop.nodes, place{addr: "127.0.0." + strconv.Itoa(10+i)})
	}
	return loop, err
}

func newNamespaces(n int) (*network, error) {
	mine := netnsPrefix + strconv.Itoa(os.Getpid()) + "-"
	w := &network{real: true, hub: place{name: mine + "hub", addr: subnet + "1"}}
	if os.Geteuid() != 0 {
		return w, errors.New("network namespaces need root")
	}
	for _, tool := range []string{"ip", "iptables-restore", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return w, fmt.Errorf("network namespaces need iproute2, iptables and util-linux: %w", err)
		}
	}
	if err := run("ip", "netns", "add", w.hub.name); err != nil {
		return w, err
	}
	err := w.hub.batch("link set lo up", "link add br0 type bridge", "addr add "+w.hub.addr+"/24 dev br0", "link set br0 up")
	for i := range n {
		if err == nil {
			err = w.plug(mine, i)
		}
	}
	return w, err
}

// plug makes a node's namespace and its cable to the bridge.
func (w *network) plug(mine string, i int) error {
	number := strconv.Itoa(i)
	p := place{name: mine + number, addr: subnet + strconv.Itoa(10+i), port: "port" + number}
	if err := run("ip", "netns", "add", p.name); err != nil {
		return err
	}
	w.nodes = append(w.nodes, p)
	err := w.hub.batch("link add "+p.port+" type veth peer name eth0 netns "+p.name, "link set "+p.port+" master br0 up")
	if err != nil {
		return err
	}
	if err := p.batch("link set lo up", "addr add "+p.addr+"/24 dev eth0", "link set eth0 up"); err != nil {
		return err
	}
	return p.filter(nil) // now rather than in the middle of a fault: the first use loads modules
}

// close removes the namespaces, and with them cables and rules.
func (w *network) close() {
	for _, p := range append(w.nodes, w.hub) {
		if p.name != "" {
			_ = run("ip", "netns", "del", p.name) // what is left is swept by the next run
		}
	}
}

// left returns the namespaces of this process that still exist.
func left() []string {
	found, _ := filepath.Glob(filepath.Join(netnsDir, netnsPrefix+strconv.Itoa(os.Getpid())+"-*"))
	return found
}

// sweep removes the namespaces of runs whose process has ended.
func sweep() {
	found, _ := filepath.Glob(filepath.Join(netnsDir, netnsPrefix+"*"))
	for _, path := range found {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), netnsPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err == nil && pid > 1 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = run("ip", "netns", "del", filepath.Base(path))
		}
	}
}

// command returns the command line that runs args in this place.
func (p place) command(args ...string) []string {
	if p.name == "" {
		return args
	}
	return append([]string{"nsenter", "--net=" + filepath.Join(netnsDir, p.name), "--"}, args...)
}

// batch gives commands to ip in this place.
func (p place) batch(lines ...string) error {
	return feed(strings.Join(lines, "\n")+"\n", "ip", "-n", p.name, "-batch", "-")
}

// filter replaces the rules of this place, all at once.
func (p place) filter(rules []string) error {
	text := "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
	for _, r := range rules {
		text += r + "\n"
	}
	args := p.command("iptables-restore", "-w")
	return feed(text+"COMMIT\n", args[0], args[1:]...)
}

func run(name string, args ...string) error { return feed("", name, args...) }

// toolPatience bounds one call of ip or iptables on a busy machine.
const toolPatience = 20 * time.Second

func feed(stdin, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), toolPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// within calls f on a thread inside this place. A socket stays in the namespace
// it was made in, whoever uses it afterwards.
func (p place) within(f func() error) error {
	if p.name == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		done <- p.enter(f)
	}()
	return <-done
}

func (p place) enter(f func() error) error {
	fd, err := unix.Open(filepath.Join(netnsDir, p.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	return f()
}

func (p place) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = p.within(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

func (p place) listen(ctx context.Context, addr string) (l net.Listener, err error) {
	err = p.within(func() error {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", addr)
		return err
	})
	return l, err
}
