/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <amqp.h>

/* One of every kind, nested. */
static struct mqfs_table make_table(void)
{
	struct mqfs_table table = {0}, inner = {0};
	struct mqfs_array array = {0};

	unit_push(&array, unit_text("in an array"));
	unit_push(&array, (struct mqfs_value){.kind = 'V'});
	unit_push(&array, (struct mqfs_value){.kind = 'A'});
	unit_add(&inner, "", unit_text(""));
	unit_add(&inner, "deep", (struct mqfs_value){.kind = 'A', .array = array});
	unit_add(&inner, "empty", (struct mqfs_value){.kind = 'F'});

	unit_add(&table, "bool", (struct mqfs_value){.kind = 't', .boolean = true});
	unit_add(&table, "i8", (struct mqfs_value){.kind = 'b', .integer = -128});
	unit_add(&table, "u8", (struct mqfs_value){.kind = 'B', .integer = 255});
	unit_add(&table, "i16", (struct mqfs_value){.kind = 's', .integer = -32768});
	unit_add(&table, "u16", (struct mqfs_value){.kind = 'u', .integer = 65535});
	unit_add(&table, "i32", (struct mqfs_value){.kind = 'I', .integer = INT32_MIN});
	unit_add(&table, "u32", (struct mqfs_value){.kind = 'i', .integer = UINT32_MAX});
	unit_add(&table, "i64", (struct mqfs_value){.kind = 'l', .integer = INT64_MIN});
	unit_add(&table, "u64", (struct mqfs_value){.kind = 'L', .integer = -1});
	unit_add(&table, "time", (struct mqfs_value){.kind = 'T', .integer = 1769860800});
	unit_add(&table, "f32", (struct mqfs_value){.kind = 'f', .real = 1.5});
	unit_add(&table, "f64", (struct mqfs_value){.kind = 'd', .real = -2.25});
	unit_add(&table, "decimal", (struct mqfs_value){.kind = 'D', .decimal = {.scale = 2, .value = 314}});
	unit_add(&table, "text", unit_text("gr\xc3\xbc\xc3\x9f"));
	unit_add(&table, "void", (struct mqfs_value){.kind = 'V'});
	unit_add(&table, "table", (struct mqfs_value){.kind = 'F', .table = inner});
	return table;
}

static amqp_table_t to_amqp(const struct mqfs_table *table, amqp_pool_t *pool);

static amqp_field_value_t value_to_amqp(const struct mqfs_value *value, amqp_pool_t *pool)
{
	amqp_field_value_t to = {.kind = (uint8_t)value->kind};

	switch (value->kind) {
	case 'S':
	case 'x':
		to.value.bytes = (amqp_bytes_t){.len = value->bytes.bytes, .bytes = value->bytes.data};
		break;
	case 'A':
		to.value.array.num_entries = (int)value->array.count;
		to.value.array.entries = amqp_pool_alloc(pool, 1 + value->array.count * sizeof(amqp_field_value_t));
		for (size_t i = 0; i < value->array.count; i++)
			to.value.array.entries[i] = value_to_amqp(&value->array.values[i], pool);
		break;
	case 'F':
		to.value.table = to_amqp(&value->table, pool);
		break;
	default: /* what the number is doesn't change how long it is */
		break;
	}
	return to;
}

static amqp_table_t to_amqp(const struct mqfs_table *table, amqp_pool_t *pool)
{
	amqp_table_t to = {.num_entries = (int)table->count};

	to.entries = amqp_pool_alloc(pool, 1 + table->count * sizeof(amqp_table_entry_t));
	for (size_t i = 0; i < table->count; i++) {
		to.entries[i].key = amqp_cstring_bytes(table->fields[i].name);
		to.entries[i].value = value_to_amqp(&table->fields[i].value, pool);
	}
	return to;
}

static size_t encode(const struct mqfs_table *table)
{
	static char buffer[1 << 20];
	amqp_bytes_t bytes = {.len = sizeof(buffer), .bytes = buffer};
	amqp_table_t to;
	amqp_pool_t pool;
	size_t offset = 0;

	init_amqp_pool(&pool, 65536);
	to = to_amqp(table, &pool);
	assert_int_equal(amqp_encode_table(bytes, &to, &offset), AMQP_STATUS_OK);
	empty_amqp_pool(&pool);
	return offset;
}

static void encodes_as_long_as_librabbitmq(void **state)
{
	struct mqfs_table table = make_table(), one = {.count = 1};
	char name[256] = "";

	(void)state;
	for (size_t i = 0; i < table.count; i++) { /* each kind by itself, so that no two errors cancel out */
		one.fields = &table.fields[i];
		assert_int_equal(mqfs_table_encoded_bytes(&one), encode(&one));
	}
	assert_int_equal(mqfs_table_encoded_bytes(&table), encode(&table));
	memset(name, 'n', 255);
	unit_add(&table, name, (struct mqfs_value){.kind = 'x', .bytes = {.data = calloc(1, 70000), .bytes = 70000}});
	assert_int_equal(mqfs_table_encoded_bytes(&table), encode(&table));
	mqfs_table_clear(&table);
	assert_int_equal(mqfs_table_encoded_bytes(&table), 4);
}

static void assert_equal(const struct mqfs_value *a, const struct mqfs_value *b)
{
	assert_int_equal(a->kind, b->kind);
	switch (a->kind) {
	case 'S':
	case 'x':
		assert_int_equal(a->bytes.bytes, b->bytes.bytes);
		assert_memory_equal(a->bytes.data, b->bytes.data, a->bytes.bytes + 1); /* with the NUL */
		assert_ptr_not_equal(a->bytes.data, b->bytes.data);
		break;
	case 'A':
		assert_int_equal(a->array.count, b->array.count);
		for (size_t i = 0; i < a->array.count; i++)
			assert_equal(&a->array.values[i], &b->array.values[i]);
		break;
	case 'F':
		assert_int_equal(a->table.count, b->table.count);
		for (size_t i = 0; i < a->table.count; i++) {
			assert_string_equal(a->table.fields[i].name, b->table.fields[i].name);
			assert_ptr_not_equal(a->table.fields[i].name, b->table.fields[i].name);
			assert_equal(&a->table.fields[i].value, &b->table.fields[i].value);
		}
		break;
	case 't':
		assert_int_equal(a->boolean, b->boolean);
		break;
	case 'f':
	case 'd':
		assert_true(a->real == b->real);
		break;
	case 'D':
		assert_int_equal(a->decimal.scale, b->decimal.scale);
		assert_int_equal(a->decimal.value, b->decimal.value);
		break;
	case 'V':
		break;
	default:
		assert_int_equal(a->integer, b->integer);
	}
}

static void copies_deeply(void **state)
{
	struct mqfs_value value = {.kind = 'F', .table = make_table()};
	struct mqfs_value same = {.kind = 'F', .table = make_table()};
	struct mqfs_value copy;

	(void)state;
	assert_int_equal(mqfs_value_copy(&value, &copy), 0);
	assert_equal(&value, &copy);
	mqfs_value_clear(&value); /* what is shared would be freed now, which valgrind and ASan tell */
	assert_int_equal(value.kind, 'V');
	assert_equal(&same, &copy);
	mqfs_value_clear(&copy);
	mqfs_value_clear(&same);
}

/* The decoders cut what is nested deeper than any sensible header; far more than they let pass is no danger here. */
#define LEVELS 1000

static void survives_deep_nesting(void **state)
{
	struct mqfs_table table = {0}, copied;
	struct mqfs_value copy;

	(void)state;
	for (int i = 0; i < LEVELS; i++) {
		struct mqfs_table outer = {0};

		unit_add(&outer, "", (struct mqfs_value){.kind = 'F', .table = table});
		table = outer;
	}
	assert_int_equal(mqfs_value_copy(&(struct mqfs_value){.kind = 'F', .table = table}, &copy), 0);
	copied = copy.table;
	assert_int_equal(mqfs_table_encoded_bytes(&copied),
	                 4 + LEVELS * 6 /* a length of the name, a kind, a length */);
	mqfs_table_clear(&table);
	mqfs_table_clear(&copied);
}

static void sets_replaces_and_removes(void **state)
{
	struct mqfs_table headers = {0};

	(void)state;
	assert_null(mqfs_headers_get(&headers, "a"));
	mqfs_headers_remove(&headers, "a");
	assert_int_equal(mqfs_headers_set_string(&headers, "a", "1"), 0);
	assert_int_equal(mqfs_headers_set_integer(&headers, "b", 2), 0);
	assert_int_equal(mqfs_headers_set_bytes(&headers, "c", "x\0y", 3), 0);
	assert_int_equal(headers.count, 3);
	assert_int_equal(mqfs_headers_set_string(&headers, "b", "two"), 0);
	assert_int_equal(headers.count, 3);
	assert_string_equal(mqfs_headers_string(&headers, "b"), "two");
	assert_string_equal(headers.fields[1].name, "b"); /* keeps its place */
	assert_int_equal(mqfs_headers_get(&headers, "c")->bytes.bytes, 3);
	assert_int_equal(mqfs_headers_get(&headers, "c")->kind, 'S');
	mqfs_headers_remove(&headers, "a");
	assert_null(mqfs_headers_get(&headers, "a"));
	assert_int_equal(headers.count, 2);
	assert_string_equal(headers.fields[0].name, "b");
	assert_string_equal(headers.fields[1].name, "c");
	assert_null(mqfs_headers_get(&headers, "B")); /* names differ by case */
	mqfs_table_clear(&headers);
	assert_int_equal(headers.count, 0);
}

static void sets_a_value_of_itself(void **state)
{
	struct mqfs_table headers = make_table();
	const struct mqfs_value *value = mqfs_headers_get(&headers, "table");

	(void)state;
	assert_int_equal(mqfs_headers_set_value(&headers, "table", &value->table.fields[1].value), 0);
	value = mqfs_headers_get(&headers, "table");
	assert_int_equal(value->kind, 'A');
	assert_memory_equal(value->array.values[0].bytes.data, "in an array", 12);
	assert_int_equal(mqfs_headers_set_string(&headers, "text", mqfs_headers_string(&headers, "text") + 2), 0);
	assert_string_equal(mqfs_headers_string(&headers, "text"), "\xc3\xbc\xc3\x9f");
	mqfs_table_clear(&headers);
}

static void removes_twins_by_their_own_name(void **state)
{
	struct mqfs_table headers = {0};

	(void)state;
	unit_add(&headers, "CC", unit_text("1"));
	unit_add(&headers, "a", unit_text("2"));
	unit_add(&headers, "CC", unit_text("3"));
	unit_add(&headers, "b", unit_text("4"));
	mqfs_headers_remove(&headers, headers.fields[0].name);
	assert_int_equal(headers.count, 2);
	assert_string_equal(headers.fields[0].name, "a");
	assert_string_equal(headers.fields[1].name, "b");
	mqfs_table_clear(&headers);
}

static void reads_strings(void **state)
{
	struct mqfs_table headers = make_table();

	(void)state;
	assert_string_equal(mqfs_headers_string(&headers, "text"), "gr\xc3\xbc\xc3\x9f");
	assert_null(mqfs_headers_string(&headers, "i8"));
	assert_null(mqfs_headers_string(&headers, "table"));
	assert_null(mqfs_headers_string(&headers, "none"));
	mqfs_table_clear(&headers);
}

static void reads_integers_of_every_kind(void **state)
{
	struct mqfs_table headers = make_table();

	(void)state;
	assert_int_equal(mqfs_headers_integer(&headers, "i8", 9), -128);
	assert_int_equal(mqfs_headers_integer(&headers, "u8", 9), 255);
	assert_int_equal(mqfs_headers_integer(&headers, "i16", 9), -32768);
	assert_int_equal(mqfs_headers_integer(&headers, "u16", 9), 65535);
	assert_int_equal(mqfs_headers_integer(&headers, "i32", 9), INT32_MIN);
	assert_true(mqfs_headers_integer(&headers, "u32", 9) == UINT32_MAX);
	assert_true(mqfs_headers_integer(&headers, "i64", 9) == INT64_MIN);
	assert_int_equal(mqfs_headers_integer(&headers, "time", 9), 1769860800);
	assert_int_equal(mqfs_headers_integer(&headers, "u64", 9), 9); /* 2^64 - 1 doesn't fit */
	unit_add(&headers, "zero", (struct mqfs_value){.kind = 'L'});
	assert_int_equal(mqfs_headers_integer(&headers, "zero", 9), 0);
	assert_int_equal(mqfs_headers_integer(&headers, "bool", 9), 9);
	assert_int_equal(mqfs_headers_integer(&headers, "f64", 9), 9);
	assert_int_equal(mqfs_headers_integer(&headers, "table", 9), 9);
	assert_int_equal(mqfs_headers_integer(&headers, "void", 9), 9);
	assert_int_equal(mqfs_headers_integer(&headers, "none", -1), -1);
	mqfs_table_clear(&headers);
}

static void reads_integers_of_text(void **state)
{
	static const char *const bad[] = {"", " 1", "1 ", "+1", "1x", "x", "-", "0x10", "1.5", "9223372036854775808"};
	struct mqfs_table headers = {0};

	(void)state;
	mqfs_headers_set_string(&headers, "n", "42");
	assert_int_equal(mqfs_headers_integer(&headers, "n", 9), 42);
	mqfs_headers_set_string(&headers, "n", "-9223372036854775808");
	assert_true(mqfs_headers_integer(&headers, "n", 9) == INT64_MIN);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		mqfs_headers_set_string(&headers, "n", bad[i]);
		assert_int_equal(mqfs_headers_integer(&headers, "n", 9), 9);
	}
	mqfs_headers_set_bytes(&headers, "n", "1\0002", 3);
	assert_int_equal(mqfs_headers_integer(&headers, "n", 9), 9);
	mqfs_table_clear(&headers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(encodes_as_long_as_librabbitmq),
	    cmocka_unit_test(copies_deeply),
	    cmocka_unit_test(survives_deep_nesting),
	    cmocka_unit_test(sets_replaces_and_removes),
	    cmocka_unit_test(sets_a_value_of_itself),
	    cmocka_unit_test(removes_twins_by_their_own_name),
	    cmocka_unit_test(reads_strings),
	    cmocka_unit_test(reads_integers_of_every_kind),
	    cmocka_unit_test(reads_integers_of_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
