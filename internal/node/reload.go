package node

import (
	"context"
	"crypto/sha256"
	"os"
	"time"
)

// pollSecrets is how often secret files are looked at. Reading a few small files
// is cheaper than a watch that has to understand the symlink swaps of every
// secret store.
const pollSecrets = 5 * time.Second

// watched is a set of files and what to do when one changes.
type watched struct {
	what  string
	paths []string
	apply func() error
	sum   [sha256.Size]byte
	bad   bool // the last apply failed and was logged
}

// Watch calls apply whenever one of the files changes, from Start on. It must be
// called before Start. Empty paths are left out.
func (n *Node) Watch(what string, apply func() error, paths ...string) {
	w := &watched{what: what, apply: apply}
	for _, p := range paths {
		if p != "" {
			w.paths = append(w.paths, p)
		}
	}
	if len(w.paths) > 0 {
		w.sum = w.digest()
		n.secrets = append(n.secrets, w)
	}
}

// digest tells two states of the files apart. What cannot be read counts as
// empty: a file that is being replaced comes back.
func (w *watched) digest() [sha256.Size]byte {
	h := sha256.New()
	for _, p := range w.paths {
		content, _ := os.ReadFile(p) // see above; apply reports what matters
		sum := sha256.Sum256(content)
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (n *Node) watchSecrets(ctx context.Context) {
	tick := time.NewTicker(pollSecrets)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.reloadChanged()
		}
	}
}

// reloadChanged applies what has changed. What fails keeps the old secret in
// use, is logged once, and is tried again at every look until it works.
func (n *Node) reloadChanged() {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	for _, w := range n.secrets {
		sum := w.digest()
		if sum == w.sum && !w.bad {
			continue
		}
		changed := sum != w.sum
		w.sum = sum
		switch err := w.apply(); {
		case err == nil:
			w.bad = false
			n.log.Info("secret file changed and is in use", "secret", w.what)
		case changed || !w.bad:
			w.bad = true
			n.log.Error("secret file changed but cannot be used; the old secret stays in use", "secret", w.what, "error", err)
		}
	}
}
