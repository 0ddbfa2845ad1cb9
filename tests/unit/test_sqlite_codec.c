/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <errno.h>

#include "db/codec.h"

static struct mqfs_value integer(char kind, int64_t value)
{
	return (struct mqfs_value){.kind = kind, .integer = value};
}

/* Every kind of value, every property. */
static struct mqfs_message *rich_message(void)
{
	static const char kinds[] = "bBsuIilLT";
	struct mqfs_message *message = unit_message("body");
	struct mqfs_table inner = {0};
	struct mqfs_array list = {0};
	char name[2] = {0};

	for (size_t i = 0; kinds[i]; i++) {
		name[0] = kinds[i];
		unit_add(&message->headers, name, integer(kinds[i], -(int64_t)i * 1000003));
	}
	unit_add(&message->headers, "true", (struct mqfs_value){.kind = 't', .boolean = true});
	unit_add(&message->headers, "float", (struct mqfs_value){.kind = 'f', .real = 0.5});
	unit_add(&message->headers, "double", (struct mqfs_value){.kind = 'd', .real = -1e300});
	unit_add(&message->headers, "decimal",
	         (struct mqfs_value){.kind = 'D', .decimal = {.scale = 3, .value = 31415}});
	unit_add(&message->headers, "void", (struct mqfs_value){.kind = 'V'});
	unit_push(&list, unit_text("nested"));
	unit_push(&list, integer('l', INT64_MIN));
	unit_add(&inner, "list", (struct mqfs_value){.kind = 'A', .array = list});
	unit_add(&inner, "", unit_text(""));
	unit_add(&message->headers, "table", (struct mqfs_value){.kind = 'F', .table = inner});
	unit_add(&message->headers, "empty", (struct mqfs_value){.kind = 'F'});
	unit_add(&message->headers, "none", (struct mqfs_value){.kind = 'A'});
	assert_int_equal(mqfs_headers_set_bytes(&message->headers, "binary", "a\0b", 3), 0);
	assert_int_equal(mqfs_message_set_string(&message->content_type, "text/plain"), 0);
	assert_int_equal(mqfs_message_set_string(&message->content_encoding, "identity"), 0);
	assert_int_equal(mqfs_message_set_string(&message->correlation_id, "c"), 0);
	assert_int_equal(mqfs_message_set_string(&message->reply_to, "r"), 0);
	assert_int_equal(mqfs_message_set_string(&message->expiration, "60000"), 0);
	assert_int_equal(mqfs_message_set_string(&message->message_id, "id"), 0);
	assert_int_equal(mqfs_message_set_string(&message->type, ""), 0);
	assert_int_equal(mqfs_message_set_string(&message->user_id, "guest"), 0);
	assert_int_equal(mqfs_message_set_string(&message->app_id, "unit"), 0);
	message->priority = 255;
	message->timestamp = UINT64_MAX;
	message->delivery_mode = 1;
	return message;
}

static void assert_same_table(const struct mqfs_table *one, const struct mqfs_table *other);

static void assert_same_value(const struct mqfs_value *one, const struct mqfs_value *other)
{
	assert_int_equal(one->kind, other->kind);
	switch (one->kind) {
	case 't':
		assert_int_equal(one->boolean, other->boolean);
		break;
	case 'f':
	case 'd':
		assert_memory_equal(&one->real, &other->real, sizeof(one->real));
		break;
	case 'D':
		assert_int_equal(one->decimal.scale, other->decimal.scale);
		assert_int_equal(one->decimal.value, other->decimal.value);
		break;
	case 'S':
	case 'x':
		assert_int_equal(one->bytes.bytes, other->bytes.bytes);
		assert_memory_equal(one->bytes.data, other->bytes.data, one->bytes.bytes + 1);
		break;
	case 'A':
		assert_int_equal(one->array.count, other->array.count);
		for (size_t i = 0; i < one->array.count; i++)
			assert_same_value(&one->array.values[i], &other->array.values[i]);
		break;
	case 'F':
		assert_same_table(&one->table, &other->table);
		break;
	case 'V':
		break;
	default:
		assert_true(one->integer == other->integer);
	}
}

static void assert_same_table(const struct mqfs_table *one, const struct mqfs_table *other)
{
	assert_int_equal(one->count, other->count);
	for (size_t i = 0; i < one->count; i++) {
		assert_string_equal(one->fields[i].name, other->fields[i].name);
		assert_same_value(&one->fields[i].value, &other->fields[i].value);
	}
}

static void every_kind_survives(void **state)
{
	struct mqfs_message *message = rich_message(), *read = NULL;
	struct codec_buffer head = {0};

	(void)state;
	assert_int_equal(codec_encode(message, &head), 0);
	assert_int_equal(codec_decode(head.data, head.bytes, "bo\0dy", 5, &read), 0);
	assert_same_table(&message->headers, &read->headers);
	assert_string_equal(read->content_type, "text/plain");
	assert_string_equal(read->content_encoding, "identity");
	assert_string_equal(read->correlation_id, "c");
	assert_string_equal(read->reply_to, "r");
	assert_string_equal(read->expiration, "60000");
	assert_string_equal(read->message_id, "id");
	assert_string_equal(read->type, "");
	assert_string_equal(read->user_id, "guest");
	assert_string_equal(read->app_id, "unit");
	assert_int_equal(read->priority, 255);
	assert_true(read->timestamp == UINT64_MAX);
	assert_int_equal(read->delivery_mode, 1);
	assert_int_equal(read->body->bytes, 5);
	assert_memory_equal(read->body->data, "bo\0dy", 5);
	mqfs_message_free(read);
	mqfs_message_free(message);
	free(head.data);
}

static void what_is_absent_stays_absent(void **state)
{
	struct mqfs_message *message = mqfs_message_new(), *read = NULL;
	struct codec_buffer head = {0};

	(void)state;
	assert_int_equal(codec_encode(message, &head), 0);
	assert_int_equal(codec_decode(head.data, head.bytes, NULL, 0, &read), 0);
	assert_null(read->content_type);
	assert_null(read->message_id);
	assert_int_equal(read->priority, -1);
	assert_int_equal(read->timestamp, 0);
	assert_int_equal(read->delivery_mode, 2);
	assert_int_equal(read->headers.count, 0);
	assert_int_equal(read->body->bytes, 0);
	mqfs_message_free(read);
	mqfs_message_free(message);
	free(head.data);
}

static void every_cut_is_damage(void **state)
{
	struct mqfs_message *message = rich_message(), *read;
	struct codec_buffer head = {0};

	(void)state;
	assert_int_equal(codec_encode(message, &head), 0);
	for (size_t bytes = 0; bytes < head.bytes; bytes++) {
		/* A copy of just that length, so that a read past its end is seen by a sanitizer. */
		unsigned char *cut = malloc(bytes + 1);

		memcpy(cut, head.data, bytes);
		cut = realloc(cut, bytes ? bytes : 1);
		assert_int_equal(codec_decode(cut, bytes, "", 0, &read), -EIO);
		free(cut);
	}
	mqfs_message_free(message);
	free(head.data);
}

static void random_damage_never_crashes(void **state)
{
	struct mqfs_message *message = rich_message(), *read;
	struct codec_buffer head = {0};
	uint64_t random = 4711;

	(void)state;
	assert_int_equal(codec_encode(message, &head), 0);
	for (int i = 0; i < 50000; i++) {
		size_t at = unit_random(&random) % head.bytes;
		unsigned char was = head.data[at];
		int r;

		head.data[at] = (unsigned char)unit_random(&random);
		r = codec_decode(head.data, head.bytes, "", 0, &read);
		assert_true(r == 0 || r == -EIO);
		if (r == 0)
			mqfs_message_free(read);
		head.data[at] = was;
	}
	mqfs_message_free(message);
	free(head.data);
}

static void what_follows_the_end_is_damage(void **state)
{
	struct mqfs_message *message = mqfs_message_new(), *read;
	struct codec_buffer head = {0};

	(void)state;
	assert_int_equal(codec_encode(message, &head), 0);
	assert_true(head.capacity > head.bytes);
	head.data[head.bytes] = 0;
	assert_int_equal(codec_decode(head.data, head.bytes + 1, "", 0, &read), -EIO);
	head.data[0]++; /* a version that is to come */
	assert_int_equal(codec_decode(head.data, head.bytes, "", 0, &read), -EIO);
	mqfs_message_free(message);
	free(head.data);
}

/* A count of four thousand million elements in a few bytes must not be believed. */
static void a_false_count_is_damage(void **state)
{
	static const unsigned char table[] = {1, 0, 255, 255, 255, 255, 0};
	static const unsigned char text[] = {1, 1, 255, 255, 255, 255, 'x'};
	static const unsigned char nul[] = {1, 1, 0, 0, 0, 3, 'a', 0, 'b', 0, 0, 0, 0, 0};
	struct mqfs_message *read;

	(void)state;
	assert_int_equal(codec_decode(table, sizeof(table), "", 0, &read), -EIO);
	assert_int_equal(codec_decode(text, sizeof(text), "", 0, &read), -EIO);
	assert_int_equal(codec_decode(nul, sizeof(nul), "", 0, &read), -EIO);
}

static struct mqfs_value nest(unsigned depth)
{
	struct mqfs_value value = {.kind = 'V'};

	for (unsigned i = 0; i < depth; i++) {
		struct mqfs_array array = {0};

		unit_push(&array, value);
		value = (struct mqfs_value){.kind = 'A', .array = array};
	}
	return value;
}

static void depth_has_a_bound(void **state)
{
	struct mqfs_message *deep = mqfs_message_new(), *deeper = mqfs_message_new(), *read;
	struct codec_buffer head = {0};

	(void)state;
	unit_add(&deep->headers, "x", nest(32));
	unit_add(&deeper->headers, "x", nest(33));
	assert_int_equal(codec_encode(deep, &head), 0);
	assert_int_equal(codec_decode(head.data, head.bytes, "", 0, &read), 0);
	mqfs_message_free(read);
	assert_int_equal(codec_encode(deeper, &head), -EINVAL);
	mqfs_message_free(deep);
	mqfs_message_free(deeper);
	free(head.data);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_kind_survives),
	    cmocka_unit_test(what_is_absent_stays_absent),
	    cmocka_unit_test(every_cut_is_damage),
	    cmocka_unit_test(random_damage_never_crashes),
	    cmocka_unit_test(what_follows_the_end_is_damage),
	    cmocka_unit_test(a_false_count_is_damage),
	    cmocka_unit_test(depth_has_a_bound),
	};

	return cmocka_run_group_tests_name("sqlite codec", tests, NULL, NULL);
}
