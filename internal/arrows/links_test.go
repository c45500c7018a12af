package arrows

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// link is a relative link of a document.
type link struct{ from, target string }

var (
	fences     = regexp.MustCompile("(?ms)^ {0,3}(```|~~~).*?^ {0,3}(```|~~~)[ \t]*$")
	codeSpans  = regexp.MustCompile("`+[^`\n]*`+")
	inline     = regexp.MustCompile(`\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)`)
	references = regexp.MustCompile(`(?m)^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)>?`)
)

// links returns the relative links of a Markdown text: inline ones, images, and
// reference definitions, without what stands in code.
func links(from, text string) (out []link) {
	text = codeSpans.ReplaceAllString(fences.ReplaceAllString(text, ""), "")
	for _, pattern := range []*regexp.Regexp{inline, references} {
		for _, m := range pattern.FindAllStringSubmatch(text, -1) {
			if u, err := url.Parse(m[1]); err != nil || (u.Scheme == "" && u.Host == "" && u.Path != "") {
				out = append(out, link{from: from, target: m[1]})
			}
		}
	}
	return out
}

// leadsTo returns the file that a link names, as a path from the top.
func (l link) leadsTo() (string, bool) {
	u, err := url.Parse(l.target)
	if err != nil || strings.HasPrefix(u.Path, "/") {
		return "", false
	}
	file := path.Join(path.Dir(l.from), u.Path)
	return file, file != ".." && !strings.HasPrefix(file, "../")
}

func TestDocs_EveryRelativeLinkLeadsToAFile(t *testing.T) {
	top := root(t)
	seen := 0
	walk(t, ".md", func(name string, text []byte) {
		for _, l := range links(name, string(text)) {
			seen++
			file, ok := l.leadsTo()
			if ok {
				_, err := os.Stat(filepath.Join(top, filepath.FromSlash(file)))
				ok = err == nil
			}
			if !ok {
				t.Errorf("%s: the link to %s leads nowhere", l.from, l.target)
			}
		}
	})
	if seen == 0 {
		t.Error("no link found in any document; the test has gone blind")
	}
}

func TestDocs_TheIndexOfDecisionsIsWhole(t *testing.T) {
	const folder = "docs/adr/"
	var decisions, indexed []string
	walk(t, ".md", func(name string, text []byte) {
		switch {
		case name == folder+"README.md":
			for _, l := range links(name, string(text)) {
				file, _ := l.leadsTo()
				indexed = append(indexed, file)
			}
		case path.Dir(name)+"/" == folder:
			decisions = append(decisions, name)
		}
	})
	numbers := make(map[string]string)
	for _, name := range decisions {
		number, _, _ := strings.Cut(path.Base(name), "-")
		if len(number) != 4 || numbers[number] != "" {
			t.Errorf("%s: want a number of four digits of its own", name)
		}
		numbers[number] = name
		if !slices.Contains(indexed, name) {
			t.Errorf("%s is not in the index", name)
		}
	}
}

func TestLinks_FindsWhatAReaderCanFollow(t *testing.T) {
	const text = "[a](one.md#part) ![b](img/two.png \"title\") [c](https://example.org/x.md)\n" +
		"[d](#here) `[e](code.md)` [f][ref] [g](<three.md>) [h](mailto:a@example.org)\n" +
		"```\n[i](fenced.md)\n```\n" +
		"[ref]: ../four.md\n"
	var got []string
	for _, l := range links("docs/x.md", text) {
		file, _ := l.leadsTo()
		got = append(got, file)
	}
	want := []string{"docs/one.md", "docs/img/two.png", "docs/three.md", "four.md"}
	if !slices.Equal(got, want) {
		t.Errorf("links = %v, want %v", got, want)
	}
	for _, target := range []string{"/etc/passwd", "../../outside.md"} {
		if file, ok := (link{from: "docs/x.md", target: target}).leadsTo(); ok {
			t.Errorf("%s leads to %s, want nowhere: it is outside", target, file)
		}
	}
}
