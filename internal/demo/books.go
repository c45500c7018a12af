package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
)

// row is one line of the final table.
type row struct {
	Instance string `json:"instance"`
	Sends    int64  `json:"sends"`
	counters
	Killed bool `json:"killed,omitempty"`
}

// books draws the final table and asserts that what the instances say adds up to
// what the identity provider counted, and that no secret is in any log.
func (s *story) books(ctx context.Context) error {
	rows := make([]row, 0, len(s.members))
	acquisitions := 0
	for _, m := range s.members {
		if !m.lost {
			if _, err := m.look(ctx); err != nil {
				return err
			}
		}
		rows = append(rows, row{Instance: m.name, Sends: m.sends.Load(), counters: m.last, Killed: m.lost})
		acquisitions += m.last.Acquisitions
	}
	total := s.idp.Counts().Total
	s.tell(event{Text: s.table(rows, total), Data: map[string]any{"instances": rows, "idp_total": total}})
	if acquisitions != total {
		return fmt.Errorf("the instances say that they asked %d times, the identity provider counted %d", acquisitions, total)
	}
	if err := s.settle(); err != nil {
		return err
	}
	return s.searchLogs()
}

// table is the final table as text.
func (s *story) table(rows []row, total int) string {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 3, ' ', tabwriter.AlignRight)
	shared, hits := "peer hits", func(c counters) int { return c.Peer }
	if s.opts.Backend == redisBackend {
		shared, hits = "redis hits", func(c counters) int { return c.Redis }
	}
	_, _ = fmt.Fprintf(w, "instance\tsends\tlocal hits\t%s\tacquisitions\t\n", shared)
	for _, r := range rows {
		note := ""
		if r.Killed {
			note = "   killed"
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\n", r.Instance, r.Sends, r.Local, hits(r.counters), r.Acquisitions, note)
	}
	_, _ = fmt.Fprintf(w, "identity provider\t\t\t\t%d\t\n", total)
	_ = w.Flush() // to memory
	return out.String()
}

// searchLogs looks for every token and secret of the story in every log.
func (s *story) searchLogs() error {
	planted := append(s.idp.Tokens(), s.fixture.gossipSecret)
	planted = append(planted, s.fixture.client.Secrets...)
	lines := 0
	for _, p := range s.fleet.Processes() {
		file, err := os.Open(filepath.Join(s.fleet.Dir(), p.Name+".log"))
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		n, err := search(file, planted)
		_ = file.Close()
		if err != nil {
			return fmt.Errorf("log of %s: %w", p.Name, err)
		}
		lines += n
	}
	s.say("", "%d log lines searched: no token and no secret in them", lines)
	return nil
}

// search returns how many lines were read.
func search(log *os.File, planted []string) (lines int, err error) {
	in := bufio.NewScanner(log)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		lines++
		for _, secret := range planted {
			if bytes.Contains(in.Bytes(), []byte(secret)) {
				return lines, errors.New("it holds a token or a secret")
			}
		}
	}
	return lines, in.Err()
}
