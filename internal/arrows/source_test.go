package arrows

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// habit is a rule about what stands in files that are not tests.
type habit struct {
	why    string
	except []string // packages that may
	finds  func(f source) []token.Pos

	// planted is a file that breaks the rule, of the package it is told to be in.
	planted   string
	plantedIn string
}

// source is one parsed file and the package whose folder it lies in.
type source struct {
	pkg  string
	file *ast.File
}

var habits = []habit{
	{
		why:       "only cmd ends the process",
		except:    []string{"./cmd/..."},
		finds:     uses("os", "Exit"),
		planted:   "package node\nimport \"os\"\nfunc f() { os.Exit(1) }",
		plantedIn: "./internal/node",
	},
	{
		why:       "log.Fatal ends the process as well",
		finds:     uses("log", "Fatal", "Fatalf", "Fatalln"),
		planted:   "package node\nimport stdlog \"log\"\nfunc f() { stdlog.Fatalf(\"no\") }",
		plantedIn: "./internal/node",
	},
	{
		why:       "only cmd handles signals; in the plugin they are Orthanc's",
		except:    []string{"./cmd/..."},
		finds:     imports("os/signal"),
		planted:   "package main\nimport \"os/signal\"\nvar _ = signal.Notify",
		plantedIn: "./plugin",
	},
	{
		why:       "only the plugin needs cgo, under whatever build tag",
		except:    []string{"./plugin/..."},
		finds:     imports("C"),
		planted:   "//go:build someday\n\npackage cluster\nimport \"C\"",
		plantedIn: "./cluster",
	},
	{
		why:       "no init: a reset of Orthanc begins anew in the same process",
		finds:     functions("init"),
		planted:   "package tokens\nfunc init() {}",
		plantedIn: "./tokens",
	},
	{
		why:       "programs are in plugin and cmd",
		except:    []string{"./plugin", "./cmd/..."},
		finds:     functions("main"),
		planted:   "package main\nfunc main() {}",
		plantedIn: "./internal/demo",
	},
	{
		why:       "no package-level Once: it would hold for the first life of the plugin only",
		finds:     packageVars("sync", "Once"),
		planted:   "package proxy\nimport \"sync\"\nvar once sync.Once",
		plantedIn: "./internal/proxy",
	},
	{
		why:       "metrics are built on a Registerer that is passed in",
		finds:     uses("github.com/prometheus/client_golang/prometheus", "DefaultRegisterer", "DefaultGatherer", "Register", "MustRegister"),
		planted:   "package proxy\nimport p \"github.com/prometheus/client_golang/prometheus\"\nfunc f() { p.MustRegister(nil) }",
		plantedIn: "./internal/proxy",
	},
	{
		why:       "promauto registers globally",
		finds:     imports("github.com/prometheus/client_golang/prometheus/promauto"),
		planted:   "package proxy\nimport _ \"github.com/prometheus/client_golang/prometheus/promauto\"",
		plantedIn: "./internal/proxy",
	},
	{
		why:       "the logger is passed in",
		finds:     uses("log/slog", "Default", "SetDefault"),
		planted:   "package tokens\nimport \"log/slog\"\nvar _ = slog.Default",
		plantedIn: "./tokens",
	},
	{
		why:       "a package is one idea; these names are none",
		finds:     vagueNames,
		planted:   "package util",
		plantedIn: "./internal/util",
	},
}

// imports finds the import of a path.
func imports(path string) func(source) []token.Pos {
	return func(s source) (found []token.Pos) {
		for _, spec := range s.file.Imports {
			if spec.Path.Value == strconv.Quote(path) {
				found = append(found, spec.Pos())
			}
		}
		return found
	}
}

// uses finds selectors of an imported package, under whatever name it has here.
func uses(path string, names ...string) func(source) []token.Pos {
	return func(s source) (found []token.Pos) {
		for node := range ast.Preorder(s.file) {
			if sel, ok := node.(*ast.SelectorExpr); ok && isSelector(s.file, sel, path, names...) {
				found = append(found, sel.Pos())
			}
		}
		return found
	}
}

func isSelector(f *ast.File, sel *ast.SelectorExpr, path string, names ...string) bool {
	x, ok := sel.X.(*ast.Ident)
	local := localName(f, path)
	return ok && local != "" && x.Name == local && slices.Contains(names, sel.Sel.Name)
}

// localName is what a file calls an imported package, "" when it does not
// import it.
func localName(f *ast.File, imported string) string {
	for _, spec := range f.Imports {
		switch {
		case spec.Path.Value != strconv.Quote(imported):
		case spec.Name != nil:
			return spec.Name.Name
		default:
			return path.Base(imported)
		}
	}
	return ""
}

// functions finds functions, not methods, of a name.
func functions(name string) func(source) []token.Pos {
	return func(s source) (found []token.Pos) {
		for _, decl := range s.file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == name {
				found = append(found, f.Pos())
			}
		}
		return found
	}
}

// packageVars finds package-level variables declared to be of a type.
func packageVars(path, name string) func(source) []token.Pos {
	return func(s source) (found []token.Pos) {
		for _, decl := range s.file.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				if sel, ok := spec.(*ast.ValueSpec).Type.(*ast.SelectorExpr); ok && isSelector(s.file, sel, path, name) {
					found = append(found, spec.Pos())
				}
			}
		}
		return found
	}
}

func vagueNames(s source) []token.Pos {
	vague := []string{"util", "utils", "common", "types", "helpers", "misc", "shared"}
	if slices.Contains(vague, path.Base(s.pkg)) || slices.Contains(vague, s.file.Name.Name) {
		return []token.Pos{s.file.Name.Pos()}
	}
	return nil
}

func TestSource_KeepsTheHabits(t *testing.T) {
	files := token.NewFileSet()
	sources := parse(t, files)
	for _, h := range habits {
		t.Run(h.why, func(t *testing.T) {
			for _, s := range sources {
				if matchesAny(h.except, s.pkg) {
					continue
				}
				for _, pos := range h.finds(s) {
					t.Error(files.Position(pos))
				}
			}
		})
	}
}

func TestSource_EveryRuleCatchesAPlantedFile(t *testing.T) {
	for _, h := range habits {
		t.Run(h.why, func(t *testing.T) {
			file, err := parser.ParseFile(token.NewFileSet(), "planted.go", h.planted, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			s := source{pkg: fullPath(h.plantedIn), file: file}
			if matchesAny(h.except, s.pkg) || len(h.finds(s)) == 0 {
				t.Error("not caught")
			}
		})
	}
}

// metricName is how a metric of ours is written where it is made.
var metricName = regexp.MustCompile(`^"(orthanc|dicomweb)_oauth_[a-z_]+"$`)

// metricOwners returns which packages write each metric's name.
func metricOwners(sources []source) map[string][]string {
	owners := make(map[string][]string)
	for _, s := range sources {
		for node := range ast.Preorder(s.file) {
			lit, ok := node.(*ast.BasicLit)
			if ok && metricName.MatchString(lit.Value) && !slices.Contains(owners[lit.Value], s.pkg) {
				owners[lit.Value] = append(owners[lit.Value], s.pkg)
			}
		}
	}
	return owners
}

// Two packages that register one name with other labels or another help text
// cannot live in one process: the second registration fails, and with it the
// start of the node.
func TestSource_EachMetricBelongsToOnePackage(t *testing.T) {
	var inNode []source
	for _, s := range parse(t, token.NewFileSet()) {
		if matchesAny(inHost, s.pkg) {
			inNode = append(inNode, s)
		}
	}
	for name, owners := range metricOwners(inNode) {
		if len(owners) > 1 {
			t.Errorf("%s is made by %v", name, owners)
		}
	}
}

func TestMetricOwners_FindsTwoPackagesWithOneName(t *testing.T) {
	var sources []source
	for _, pkg := range []string{"a", "b"} {
		text := "package " + pkg + "\nconst name, prefix = \"orthanc_oauth_hits_total\", \"orthanc_oauth\""
		file, err := parser.ParseFile(token.NewFileSet(), pkg+".go", text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, source{pkg: pkg, file: file})
	}
	got := metricOwners(sources)
	if len(got) != 1 || len(got[`"orthanc_oauth_hits_total"`]) != 2 {
		t.Errorf("owners = %v, want one name of two packages", got)
	}
}

// parse reads every file of the module that is not a test, whatever its build
// tags. Reading them through this process also tells the test cache that the
// outcome depends on them.
func parse(t *testing.T, files *token.FileSet) []source {
	t.Helper()
	var out []source
	walk(t, ".go", func(name string, text []byte) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		file, err := parser.ParseFile(files, name, text, parser.SkipObjectResolution)
		if err != nil {
			t.Logf("%v; the compiler will say more", err)
			return
		}
		out = append(out, source{pkg: path.Join(module, path.Dir(name)), file: file})
	})
	return out
}

// walk calls f with every file of the module of one kind: its path from the
// module's folder, with slashes, and its content. Folders that the go command
// passes over are passed over.
func walk(t *testing.T, ext string, f func(name string, text []byte)) {
	t.Helper()
	top := root(t)
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel != "." && (strings.ContainsRune("._", rune(d.Name()[0])) || slices.Contains([]string{"testdata", "build", "vendor"}, d.Name())) {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ext || !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f(filepath.ToSlash(rel), text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
