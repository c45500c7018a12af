package arrows

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// bound is a row of the tables of bounds: what, number and unit, and the folder
// and name of the constant.
var bound = regexp.MustCompile("(?m)^\\| [^|]+ \\| ([0-9][0-9,.]*) ?([a-zA-Z]*) \\| `([a-z/]+)\\.([A-Za-z]+)` \\|$")

// units are what the tables use; a duration is counted in nanoseconds.
var units = map[string]float64{
	"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20,
	"ms": 1e6, "s": 1e9, "min": 60e9, "h": 3600e9,
}

// TestDocs_BoundsAreThoseOfTheCode holds the numbers of docs/protocol.md to the
// constants that it names.
func TestDocs_BoundsAreThoseOfTheCode(t *testing.T) {
	top := root(t)
	doc, err := os.ReadFile(filepath.Join(top, "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := bound.FindAllStringSubmatch(string(doc), -1)
	_, tables, _ := strings.Cut(string(doc), "\n## Bounds\n")
	tables, _, _ = strings.Cut(tables, "\n## ")
	if named := strings.Count(tables, "` |\n"); len(rows) < 50 || len(rows) != named {
		t.Fatalf("%d bounds of %d in the tables can be read", len(rows), named)
	}
	code := constants{top: top, folders: make(map[string]map[string]ast.Expr)}
	for _, r := range rows {
		var written float64
		if _, err := fmt.Sscan(strings.ReplaceAll(r[1], ",", ""), &written); err != nil || units[r[2]] == 0 {
			t.Errorf("cannot read %q", r[0])
			continue
		}
		value, err := code.value(r[3], r[4])
		if err != nil {
			t.Errorf("%s.%s: %v", r[3], r[4], err)
			continue
		}
		if found, _ := constant.Float64Val(value); found != written*units[r[2]] {
			t.Errorf("%s.%s is %v in the code and %s %s in the document", r[3], r[4], value, r[1], r[2])
		}
	}
}

// constants evaluates the constants of a folder without compiling it: literals,
// arithmetic, units of time, and constants of other folders of ours.
type constants struct {
	top     string
	folders map[string]map[string]ast.Expr
}

func (c constants) value(folder, name string) (constant.Value, error) {
	if c.folders[folder] == nil {
		if err := c.load(folder); err != nil {
			return nil, err
		}
	}
	expr, ok := c.folders[folder][name]
	if !ok {
		return nil, fmt.Errorf("no constant %s in %s", name, folder)
	}
	return c.eval(folder, expr)
}

func (c constants) load(folder string) error {
	files, err := filepath.Glob(filepath.Join(c.top, filepath.FromSlash(folder), "*.go"))
	if err != nil {
		return err
	}
	found := make(map[string]ast.Expr)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.CONST {
				note(found, d)
			}
		}
	}
	c.folders[folder] = found
	return nil
}

func note(found map[string]ast.Expr, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		s, _ := spec.(*ast.ValueSpec)
		for i, value := range s.Values {
			found[s.Names[i].Name] = value
		}
	}
}

var clock = map[string]int64{"Nanosecond": 1, "Microsecond": 1e3, "Millisecond": 1e6, "Second": 1e9, "Minute": 60e9, "Hour": 3600e9}

func (c constants) eval(folder string, expr ast.Expr) (constant.Value, error) {
	switch e := expr.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0), nil
	case *ast.ParenExpr:
		return c.eval(folder, e.X)
	case *ast.Ident:
		return c.value(folder, e.Name)
	case *ast.SelectorExpr:
		return c.imported(fmt.Sprint(e.X), e.Sel.Name)
	case *ast.BinaryExpr:
		return c.binary(folder, e)
	}
	return nil, fmt.Errorf("cannot evaluate %T", expr)
}

func (c constants) imported(from, name string) (constant.Value, error) {
	if from == "time" {
		return constant.MakeInt64(clock[name]), nil
	}
	for _, folder := range []string{"backend", "cluster", "tokens", "tokens/provider"} {
		if path.Base(folder) == from {
			return c.value(folder, name)
		}
	}
	return nil, fmt.Errorf("unknown package %s", from)
}

func (c constants) binary(folder string, e *ast.BinaryExpr) (constant.Value, error) {
	x, err := c.eval(folder, e.X)
	if err != nil {
		return nil, err
	}
	y, err := c.eval(folder, e.Y)
	if err != nil {
		return nil, err
	}
	if e.Op == token.SHL {
		n, _ := constant.Uint64Val(y)
		return constant.Shift(x, token.SHL, uint(n)), nil
	}
	return constant.BinaryOp(x, e.Op, y), nil
}
