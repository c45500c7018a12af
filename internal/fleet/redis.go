package fleet

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Redis is a running redis-server without persistence.
type Redis struct {
	*Process
	Host string
	Port int
}

// Addr returns host:port.
func (r *Redis) Addr() string { return net.JoinHostPort(r.Host, strconv.Itoa(r.Port)) }

// Redis starts a redis-server on a free loopback port and waits until it
// answers. More arguments are added to its command line.
func (f *Fleet) Redis(ctx context.Context, tools Tools, name string, args ...string) (*Redis, error) {
	port, err := f.Port()
	if err != nil {
		return nil, err
	}
	dir, err := f.folder(name)
	if err != nil {
		return nil, err
	}
	args = append([]string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no",
	}, args...)
	p, err := f.Start(Spec{Name: name, Path: tools.Redis, Args: args})
	if err != nil {
		return nil, err
	}
	r := &Redis{Process: p, Host: "127.0.0.1", Port: port}
	err = Eventually(ctx, startPatience, func(ctx context.Context) error {
		if err := p.alive(); err != nil {
			return Final(err)
		}
		return r.ping(ctx)
	})
	return r, err
}

// ping asks for any answer at all: with a password set, that is an error reply.
func (r *Redis) ping(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.Addr())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.HasPrefix(line, "-LOADING") {
		return fmt.Errorf("redis answered %q", line)
	}
	return nil
}
