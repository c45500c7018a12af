package memnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"orthanc-oauth/cluster/memnet"
)

const port = 7946

func stream(t *testing.T, a, b *memnet.Host) (ours, theirs net.Conn) {
	t.Helper()
	l, err := b.Listen(t.Context(), netip.AddrPortFrom(b.Addr(), port))
	if err != nil {
		t.Fatal(err)
	}
	if ours, err = a.Dial(t.Context(), netip.AddrPortFrom(b.Addr(), port)); err != nil {
		t.Fatal(err)
	}
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v, want %q", b, err, want)
	}
}

func TestStream_CutHoldsBytesUntilHealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b := stream(t, n.Host("10.0.0.1"), n.Host("10.0.0.2"))
		n.Cut("10.0.0.1", "10.0.0.2")
		send(t, a, "there")
		send(t, b, "back")
		receive(t, a, "back") // the other direction is not cut

		_ = b.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read through a cut: %v", err)
		}
		_ = b.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { n.Join("10.0.0.1", "10.0.0.2") })
		start := time.Now()
		receive(t, b, "there")
		if d := time.Since(start); d != time.Minute {
			t.Fatalf("healed after %v", d)
		}
	})
}

func TestStream_DelayKeepsOrderAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		n.SetDelay("10.0.0.1", "10.0.0.2", 100*time.Millisecond)
		n.SetLoss("10.0.0.1", "10.0.0.2", 0.3)
		a, b := stream(t, n.Host("10.0.0.1"), n.Host("10.0.0.2"))
		start := time.Now()
		for _, s := range []string{"one", "two", "three"} {
			send(t, a, s)
		}
		_ = a.Close()
		all, err := io.ReadAll(b)
		if err != nil || string(all) != "onetwothree" {
			t.Fatalf("%q, %v", all, err)
		}
		if d := time.Since(start); d < 100*time.Millisecond {
			t.Fatalf("arrived after %v", d)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("write to a closed end: %v", err)
		}
	})
}

func TestDial_CutWaitsRefusedFailsKilledResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		to := netip.AddrPortFrom(b.Addr(), port)
		if _, err := a.Dial(t.Context(), to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial of a closed port: %v", err)
		}
		ours, theirs := stream(t, a, b)
		_ = theirs
		n.Partition([]string{"10.0.0.1"}, []string{"10.0.0.2"})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := a.Dial(ctx, to); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("dial through a cut: %v", err)
		}
		n.Heal([]string{"10.0.0.1"}, []string{"10.0.0.2"})
		b.Kill()
		if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("read from a killed host: %v", err)
		}
		if _, err := b.Dial(t.Context(), to); err == nil {
			t.Fatal("a killed process dialled")
		}
	})
}

func TestPacket_LossDelayAndPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		pa, _ := a.ListenPacket(t.Context(), netip.AddrPortFrom(a.Addr(), port))
		pb, _ := b.ListenPacket(t.Context(), netip.AddrPortFrom(b.Addr(), port))
		n.SetDelay("10.0.0.1", "10.0.0.2", 50*time.Millisecond)
		n.SetLoss("10.0.0.1", "10.0.0.2", 0.5)
		for range 1000 {
			_, _ = pa.WriteTo([]byte("x"), pb.LocalAddr())
		}
		got, start := 0, time.Now()
		_ = pb.SetReadDeadline(start.Add(time.Second))
		for {
			_, from, err := pb.ReadFrom(make([]byte, 10))
			if err != nil {
				break
			}
			if got++; from.String() != "10.0.0.1:7946" || time.Since(start) != 50*time.Millisecond {
				t.Fatalf("packet from %v after %v", from, time.Since(start))
			}
		}
		if got < 400 || got > 600 {
			t.Fatalf("%d of 1000 arrived at a loss of one half", got)
		}
		b.Pause()
		n.SetLoss("10.0.0.1", "10.0.0.2", 0)
		_, _ = pa.WriteTo([]byte("x"), pb.LocalAddr())
		_ = pb.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err := pb.ReadFrom(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a paused host received: %v", err)
		}
	})
}
