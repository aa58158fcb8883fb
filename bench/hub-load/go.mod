module countersign.test/bench-hub-load

go 1.25
