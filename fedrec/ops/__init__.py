"""Operations shared by devices and server: processes, keys, Prometheus metrics."""
