package arrows

import (
	"go/ast"
	"go/parser"
	"go/token"
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

// functionName is how documents name a function or method: with "()" behind it.
var functionName = regexp.MustCompile("`(?:([A-Za-z]\\w*)\\.)?([A-Za-z]\\w*)\\(\\)`")

func TestDocs_FunctionsNamedInTheArchitectureExist(t *testing.T) {
	declared := declaredFunctions(parse(t, token.NewFileSet()))
	named := 0
	walk(t, ".md", func(name string, text []byte) {
		if name != "docs/architecture.md" {
			return
		}
		for _, m := range functionName.FindAllStringSubmatch(string(text), -1) {
			named++
			if !declared[m[1]+"."+m[2]] {
				t.Errorf("%s names %s, which does not exist", name, m[0])
			}
		}
	})
	if named == 0 {
		t.Error("docs/architecture.md names no function; the test has gone blind")
	}
}

// declaredFunctions returns what documents may name: methods as Type.Name,
// functions as .Name and package.Name, an interface's methods as Type.Name.
func declaredFunctions(sources []source) map[string]bool {
	declared := make(map[string]bool)
	for _, s := range sources {
		for node := range ast.Preorder(s.file) {
			switch n := node.(type) {
			case *ast.FuncDecl:
				for _, owner := range owners(s.file.Name.Name, n) {
					declared[owner+"."+n.Name.Name] = true
				}
			case *ast.TypeSpec:
				if i, ok := n.Type.(*ast.InterfaceType); ok {
					for _, m := range i.Methods.List {
						for _, method := range m.Names {
							declared[n.Name.Name+"."+method.Name] = true
						}
					}
				}
			}
		}
	}
	return declared
}

func owners(pkg string, f *ast.FuncDecl) []string {
	if f.Recv == nil {
		return []string{"", pkg}
	}
	recv := f.Recv.List[0].Type
	if star, ok := recv.(*ast.StarExpr); ok {
		recv = star.X
	}
	if id, ok := recv.(*ast.Ident); ok {
		return []string{id.Name}
	}
	return nil // generic: nothing here is
}

func TestDeclaredFunctions_KnowsFunctionsAndMethods(t *testing.T) {
	const text = "package p\nfunc F() {}\nfunc (*T) M() {}\nfunc (T) N() {}\ntype I interface{ O() }"
	file, err := parser.ParseFile(token.NewFileSet(), "planted.go", text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	got := declaredFunctions([]source{{file: file}})
	for _, want := range []string{".F", "p.F", "T.M", "T.N", "I.O"} {
		if !got[want] {
			t.Errorf("%s is not known", want)
		}
	}
	if got[".M"] || got["T.F"] {
		t.Errorf("known beyond what is declared: %v", got)
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
