package golden
import ("testing";"context";"os";"fmt";"time")
func TestExp(t *testing.T){
 b:=bootstrap{work:"/tmp/gx/w",root:"/tmp/gx/w/root",log:"/tmp/gx/w/log"}
 os.MkdirAll("/tmp/gx/w",0o755)
 t0:=time.Now()
 if err:=b.run(context.Background(),func(f float64){ if int(f*480)%40==0 {fmt.Println(time.Since(t0),f)}}); err!=nil {t.Fatal(err)}
 fmt.Println("boot",time.Since(t0))
 if err:=finish(b.root); err!=nil {t.Fatal(err)}
 fmt.Println("done",time.Since(t0))
}
