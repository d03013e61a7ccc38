import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqzoo.tasks.data.parquet import column_bytes, read_table


@pytest.mark.parametrize("read", [read_table, lambda files: list(column_bytes(files, "text"))])
def test_a_flipped_byte_is_told_by_the_checksum_of_its_page(tmp_path, read):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["first", "plain words", "some"]})  # the middle one is no bound
    options = {"use_dictionary": False, "compression": "none"}
    pq.write_table(table, path, write_page_checksum=True, **options)
    assert len(read([path])) == 3
    path.write_bytes(path.read_bytes().replace(b"plain", b"pla)n", 1))
    with pytest.raises(ValueError, match=r"a.parquet is no Parquet file, or damaged \(.*CRC"):
        read([path])
