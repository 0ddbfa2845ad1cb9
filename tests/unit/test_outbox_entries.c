/* SPDX-License-Identifier: MIT */
#include "outbox_fixture.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

/* Entries of the outbox: what is put, changed, removed and found again. Nothing is WAITING, so nothing is sent. */

static struct mqfs_backend *backend;
static struct mqfs_state *state;
static struct mqfs_outbox *outbox;
static struct watching watching;

static void open_all(void)
{
	state = open_state(BROKER);
	memset(&watching, 0, sizeof(watching));
	outbox = open_outbox(state, backend, &watching);
}

static void close_all(void)
{
	mqfs_outbox_close(outbox);
	mqfs_state_close(state);
}

static int setup(void **unused)
{
	if (fixture_setup(unused) < 0)
		return -1;
	limits.max_bytes = INT64_C(1) << 30;
	backend = open_store(10000);
	open_all();
	return 0;
}

static int teardown(void **unused)
{
	close_all();
	mqfs_backend_close(backend);
	return fixture_teardown(unused);
}

static void reopen(void)
{
	close_all();
	open_all();
}

static void an_entry_comes_back_as_it_was(void **unused)
{
	struct mqfs_entry entry = entry_of("jobs", "broken\xff name", MQFS_ENTRY_KEPT);
	struct mqfs_message *message = identified("a body");
	struct putting putting;
	struct seen seen;
	int r;

	(void)unused;
	entry.priority = 9;
	entry.due_us = 1234567;
	entry.modified_us = 7654321;
	entry.spoiled = true;
	entry.error = EFBIG;
	entry.reason = "too large";
	mqfs_headers_set_string(&message->headers, "color", "blue");
	assert_int_equal(put_entry(outbox, &entry, message, &putting), 0);
	assert_string_equal(putting.name, entry.name);
	for (int i = 0; i < 2; i++) {
		assert_true(WAIT_UNTIL(watching.count == 1, ENOUGH_MS));
		seen = watching.entries[0];
		assert_int_equal(seen.id, putting.id);
		assert_int_equal(seen.entry.kind, MQFS_ENTRY_KEPT);
		assert_string_equal(seen.queue, "jobs");
		assert_string_equal(seen.name, entry.name);
		assert_string_equal(seen.reason, "too large");
		assert_int_equal(seen.entry.priority, 9);
		assert_int_equal(seen.entry.mode, 0640);
		assert_int_equal(seen.entry.body_bytes, 6);
		assert_int_equal(seen.entry.due_us, 1234567);
		assert_int_equal(seen.entry.modified_us, 7654321);
		assert_int_equal(seen.entry.error, EFBIG);
		assert_true(seen.entry.spoiled);
		assert_false(seen.entry.in_flight);
		message = load_entry(outbox, putting.id, &r);
		assert_int_equal(r, 0);
		assert_true(message_is(message, "a body"));
		assert_string_equal(mqfs_headers_string(&message->headers, "color"), "blue");
		mqfs_message_free(message);
		if (i == 0)
			reopen();
	}
	assert_int_equal(watching.told, 1); /* before open returned */
}

static void names_are_unique(void **unused)
{
	static const char *const names[][2] = {{"x", "x"},     {"x", "x~2"},     {"x", "x~3"},
	                                       {"x~2", "x~4"}, {"x~9", "x~9"},   {"x", "x~10"},
	                                       {"x~1", "x~1"}, {"x~1", "x~1~2"}, {"x~02", "x~02"},
	                                       {"~2", "~2"},   {"~2", "~2~2"},   {"x~", "x~"},
	                                       {"x~", "x~~2"}, {"y~2", "y~2"},   {"y", "y"},
	                                       {"y", "y~3"},   {"z~7a", "z~7a"}, {"z~999999", "z~999999"},
	                                       {"z", "z"},     {"z", "z~2"},     {"z~999999", "z~3"}};
	struct mqfs_entry entry = entry_of("jobs", NULL, MQFS_ENTRY_FILE);
	struct putting putting;

	(void)unused;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		entry.name = names[i][0];
		assert_int_equal(put_entry(outbox, &entry, unit_message(""), &putting), 0);
		assert_string_equal(putting.name, names[i][1]);
	}
	/* Elsewhere they are free. */
	entry.name = "x";
	entry.queue = "other";
	assert_int_equal(put_entry(outbox, &entry, unit_message(""), &putting), 0);
	assert_string_equal(putting.name, "x");
	entry.queue = "jobs";
	entry.priority = 3;
	assert_int_equal(put_entry(outbox, &entry, unit_message(""), &putting), 0);
	assert_string_equal(putting.name, "x");
}

static void long_names_are_cut(void **unused)
{
	mqfs_name_t name, other;
	struct mqfs_entry entry = entry_of("jobs", name, MQFS_ENTRY_FILE);
	struct putting first, twins[3];

	(void)unused;
	/* 255 bytes, of which a character of two lies across the cut. */
	memset(name, 'n', 255);
	name[255] = '\0';
	memcpy(name + 247, "\xc3\xa4", 2);
	assert_int_equal(put_entry(outbox, &entry, unit_message(""), &first), 0);
	assert_string_equal(first.name, name);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(put_entry(outbox, &entry, unit_message(""), &twins[i]), 0);
		assert_true(strlen(twins[i].name) <= 255);
		assert_memory_equal(twins[i].name, name, 240);
		assert_int_not_equal(twins[i].name[246] & 0xc0, 0xc0);
	}
	/* Another long name with the same beginning meets their twins. */
	snprintf(other, sizeof(other), "%s", name);
	other[254] = 'm';
	entry.name = other;
	assert_int_equal(put_entry(outbox, &entry, unit_message(""), &first), 0);
	assert_string_equal(first.name, other);
	assert_int_equal(put_entry(outbox, &entry, unit_message(""), &first), 0);
	for (size_t i = 0; i < 3; i++)
		assert_string_not_equal(first.name, twins[i].name);
}

static void a_change_keeps_the_rest(void **unused)
{
	int64_t id = put(outbox, "jobs", "draft", "first", MQFS_ENTRY_FILE);
	struct mqfs_entry entry = entry_of("jobs", "renamed", MQFS_ENTRY_KEPT);
	struct mqfs_message *message;
	struct putting putting;
	int r;

	(void)unused;
	put(outbox, "jobs", "taken", "", MQFS_ENTRY_FILE);
	entry.id = id;
	entry.error = ENOENT;
	assert_int_equal(change_entry(outbox, &entry, NULL, &putting), 0);
	assert_string_equal(putting.name, "renamed");
	assert_int_equal(putting.id, id);
	assert_true(
	    WAIT_UNTIL(seen_find(&watching, id) && strcmp(seen_find(&watching, id)->name, "renamed") == 0, ENOUGH_MS));
	assert_int_equal(seen_find(&watching, id)->entry.body_bytes, 5);
	message = load_entry(outbox, id, &r);
	assert_true(message_is(message, "first"));
	mqfs_message_free(message);
	/* Its own name is its own; that of another makes a twin. */
	assert_int_equal(change_entry(outbox, &entry, identified("second one"), &putting), 0);
	assert_string_equal(putting.name, "renamed");
	entry.name = "taken";
	assert_int_equal(change_entry(outbox, &entry, NULL, &putting), 0);
	assert_string_equal(putting.name, "taken~2");
	reopen();
	message = load_entry(outbox, id, &r);
	assert_true(message_is(message, "second one"));
	mqfs_message_free(message);
	assert_int_equal(seen_find(&watching, id)->entry.body_bytes, 10);
	entry.id = 999999;
	assert_int_equal(change_entry(outbox, &entry, NULL, &putting), -ENOENT);
}

static void a_removed_one_is_gone(void **unused)
{
	int64_t id = put(outbox, "jobs", "draft", "body", MQFS_ENTRY_KEPT), next;
	int r;

	(void)unused;
	assert_int_equal(remove_entry(outbox, id), 0);
	assert_true(WAIT_UNTIL(watching.removed == 1, ENOUGH_MS));
	assert_int_equal(remove_entry(outbox, id), -ENOENT);
	assert_null(load_entry(outbox, id, &r));
	assert_int_equal(r, -ENOENT);
	reopen();
	assert_int_equal(watching.count, 0);
	next = put(outbox, "jobs", "draft", "body", MQFS_ENTRY_KEPT);
	assert_true(next > id); /* an id is never used again */
	assert_int_equal(remove_entry(outbox, next), 0);
	assert_int_equal(sql_integer("SELECT count(*) FROM content"), 0);
	assert_int_equal(sql_integer("SELECT bytes FROM about"), 0);
}

static void the_file_is_bounded(void **unused)
{
	struct mqfs_entry entry = entry_of("jobs", "x", MQFS_ENTRY_KEPT);
	struct mqfs_message *large;
	struct putting putting;
	int64_t ids[64] = {0};
	int count = 0;

	(void)unused;
	close_all();
	limits.max_bytes = 100000;
	open_all();
	for (;; count++) {
		large = identified("");
		assert_int_equal(mqfs_body_truncate(large->body, 9000), 0);
		if (put_entry(outbox, &entry, large, &putting) < 0)
			break;
		ids[count] = putting.id;
	}
	assert_int_equal(putting.result, -ENOSPC);
	assert_int_equal(count, 10);
	/* Nor may one grow beyond it; it may be renamed, shrink, and go. */
	entry.id = ids[0];
	large = identified("");
	assert_int_equal(mqfs_body_truncate(large->body, 20000), 0);
	assert_int_equal(change_entry(outbox, &entry, large, &putting), -ENOSPC);
	assert_int_equal(change_entry(outbox, &entry, NULL, &putting), 0);
	assert_int_equal(change_entry(outbox, &entry, identified("small"), &putting), 0);
	assert_int_equal(remove_entry(outbox, ids[1]), 0);
	put(outbox, "jobs", "x", "fits", MQFS_ENTRY_KEPT);
}

/* Two mounts: each hears what the other does. */
static void two_mounts_hear_of_each_other(void **unused)
{
	struct mqfs_entry entry = entry_of("jobs", "mine", MQFS_ENTRY_KEPT);
	static struct watching elsewhere;
	struct mqfs_state *other_state = open_state(BROKER);
	struct mqfs_outbox *other;
	struct putting putting;
	int64_t id;

	(void)unused;
	memset(&elsewhere, 0, sizeof(elsewhere));
	other = open_outbox(other_state, backend, &elsewhere);
	id = put(outbox, "jobs", "mine", "body", MQFS_ENTRY_FILE);
	assert_true(WAIT_UNTIL(seen_find(&elsewhere, id), 2000));
	/* A name that the other has only just taken is respected. */
	assert_int_equal(put_entry(other, &entry, identified("theirs"), &putting), 0);
	assert_string_equal(putting.name, "mine~2");
	assert_true(WAIT_UNTIL(seen_find(&watching, putting.id), 2000));
	entry.id = id;
	entry.name = "moved";
	assert_int_equal(change_entry(other, &entry, NULL, &putting), 0);
	assert_true(WAIT_UNTIL(strcmp(seen_find(&watching, id)->name, "moved") == 0, 2000));
	assert_int_equal(seen_find(&watching, id)->entry.kind, MQFS_ENTRY_KEPT);
	assert_int_equal(remove_entry(other, id), 0);
	assert_true(WAIT_UNTIL(seen_find(&watching, id)->removed, 2000));
	assert_int_equal(remove_entry(outbox, id), -ENOENT);
	mqfs_outbox_close(other);
	mqfs_state_close(other_state);
}

/* More happened than the file remembers: everything is looked at anew. */
static void a_mount_that_missed_much_catches_up(void **unused)
{
	int64_t stays = put(outbox, "jobs", "stays", "", MQFS_ENTRY_FILE);
	int64_t goes = put(outbox, "jobs", "goes", "", MQFS_ENTRY_FILE);
	char text[256];

	(void)unused;
	assert_true(WAIT_UNTIL(seen_find(&watching, goes), ENOUGH_MS));
	snprintf(text, sizeof(text),
	         "BEGIN; UPDATE about SET revision = revision + 20000; DELETE FROM entry WHERE id = %lld;"
	         " UPDATE entry SET mode = 511 WHERE id = %lld; COMMIT",
	         (long long)goes, (long long)stays);
	sql(text);
	assert_true(WAIT_UNTIL(seen_find(&watching, goes)->removed, 2000));
	assert_true(WAIT_UNTIL(seen_find(&watching, stays)->entry.mode == 0777, 2000));
	assert_false(seen_find(&watching, stays)->removed);
}

static void what_was_put_survives_kill(void **unused)
{
	struct mqfs_message *message;
	int64_t ids[2];
	int ends[2], status, r;
	pid_t child;

	(void)unused;
	close_all();
	mqfs_backend_close(backend);
	assert_int_equal(pipe(ends), 0);
	child = fork();
	if (child == 0) {
		snprintf(path, sizeof(path), "%s/store.db", directory);
		backend = open_store(10000);
		open_all();
		for (int i = 0; i < 2; i++)
			ids[i] = put(outbox, "jobs", "x", i ? "second" : "first", MQFS_ENTRY_KEPT);
		if (write(ends[1], ids, sizeof(ids)) != sizeof(ids))
			_exit(1);
		for (;;)
			put(outbox, "jobs", "more", "more", MQFS_ENTRY_FILE);
	}
	assert_int_equal(read(ends[0], ids, sizeof(ids)), sizeof(ids));
	usleep(20000);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	close(ends[0]);
	close(ends[1]);
	snprintf(path, sizeof(path), "%s/store.db", directory);
	backend = open_store(10000);
	open_all();
	assert_string_equal(seen_find(&watching, ids[0])->name, "x");
	assert_string_equal(seen_find(&watching, ids[1])->name, "x~2");
	message = load_entry(outbox, ids[1], &r);
	assert_true(message_is(message, "second"));
	mqfs_message_free(message);
	assert_int_equal(sql_integer("SELECT (SELECT count(*) FROM entry) = (SELECT count(*) FROM content)"), 1);
	assert_int_equal(sql_integer("SELECT (SELECT sum(bytes) FROM entry) = (SELECT bytes FROM about)"), 1);
}

/* In a mount namespace of this process's own. */
static bool with_own_disk(const char *options)
{
	static bool own;

	if (!own && (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0))
		return false;
	own = true;
	return mount("tmpfs", directory, "tmpfs", 0, options) == 0;
}

static void a_full_disk_is_enospc(void **unused)
{
	struct mqfs_entry entry = entry_of("jobs", "x", MQFS_ENTRY_KEPT);
	struct putting putting;
	int64_t first = 0;
	int fits = 0;

	assert_int_equal(fixture_setup(unused), 0);
	if (!with_own_disk("size=4m")) {
		rmdir(directory);
		skip();
	}
	backend = open_store(10000);
	open_all();
	for (;; fits++) {
		struct mqfs_message *message = identified("");

		assert_int_equal(mqfs_body_truncate(message->body, 50000), 0);
		if (put_entry(outbox, &entry, message, &putting) < 0)
			break;
		first = first ? first : putting.id;
	}
	assert_int_equal(putting.result, -ENOSPC);
	assert_in_range(fits, 10, 70);
	/* What is there can be read, and goes, which makes room. */
	reopen();
	assert_int_equal(watching.count, fits);
	assert_int_equal(remove_entry(outbox, first), 0);
	put(outbox, "jobs", "x", "small", MQFS_ENTRY_KEPT);
	close_all();
	mqfs_backend_close(backend);
	assert_int_equal(umount2(directory, MNT_DETACH), 0);
	assert_int_equal(fixture_teardown(unused), 0);
}

static void a_read_only_disk_is_erofs(void **unused)
{
	struct mqfs_state *refused;
	char *error = NULL;
	int r;

	assert_int_equal(fixture_setup(unused), 0);
	if (!with_own_disk("size=8m")) {
		rmdir(directory);
		skip();
	}
	state = open_state(BROKER);
	mqfs_state_close(state);
	assert_int_equal(mount(NULL, directory, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
	r = mqfs_state_open(directory, BROKER, &refused, &error);
	assert_int_equal(r, -EROFS);
	assert_non_null(strstr(error, path));
	free(error);
	/* When it can be written again all is well. */
	assert_int_equal(mount(NULL, directory, NULL, MS_REMOUNT, "size=8m"), 0);
	snprintf(path, sizeof(path), "%s/store.db", directory);
	backend = open_store(10000);
	open_all();
	put(outbox, "jobs", "x", "before", MQFS_ENTRY_KEPT);
	close_all();
	mqfs_backend_close(backend);
	assert_int_equal(umount2(directory, MNT_DETACH), 0);
	assert_int_equal(fixture_teardown(unused), 0);
}

static void ignore_entry(void *arg, const struct mqfs_entry *entry)
{
	(void)arg;
	(void)entry;
}

static void ignore_removal(void *arg, int64_t id, bool sent)
{
	(void)arg;
	(void)id;
	(void)sent;
}

static const struct mqfs_outbox_watcher deaf = {
    .changed = ignore_entry, .removed = ignore_removal, .refused = ignore_entry};

/* Nothing may become slow with the number that is there. */
static void many_of_one_name(void **unused)
{
	enum { MANY = 20000 };
	struct mqfs_entry entry = entry_of("jobs", "task", MQFS_ENTRY_KEPT);
	struct putting *puttings = calloc(MANY, sizeof(*puttings));
	int64_t begin_ms, first_ms = 0, second_ms;

	(void)unused;
	close_all();
	state = open_state(BROKER);
	assert_int_equal(mqfs_outbox_open(state, backend, &limits, &deaf, NULL, &outbox), 0);
	begin_ms = mqfs_clock_monotonic_ms();
	for (int half = 0; half < 2; half++) {
		for (int i = half * MANY / 2; i < (half + 1) * MANY / 2; i++)
			mqfs_outbox_put(outbox, &entry, identified("x"), MQFS_NEVER, putting_done, &puttings[i]);
		assert_int_equal(putting_wait(&puttings[(half + 1) * MANY / 2 - 1]), 0);
		if (half == 0)
			first_ms = mqfs_clock_monotonic_ms() - begin_ms;
	}
	second_ms = mqfs_clock_monotonic_ms() - begin_ms - first_ms;
	assert_string_equal(puttings[MANY - 1].name, "task~20000");
	print_message("    %d in %lld ms, then as many in %lld ms\n", MANY / 2, (long long)first_ms,
	              (long long)second_ms);
	assert_true(second_ms < 4 * first_ms + 500);
	free(puttings);
}

int main(void)
{
#define OUTBOX_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	static const struct CMUnitTest tests[] = {
	    OUTBOX_TEST(an_entry_comes_back_as_it_was),
	    OUTBOX_TEST(names_are_unique),
	    OUTBOX_TEST(long_names_are_cut),
	    OUTBOX_TEST(a_change_keeps_the_rest),
	    OUTBOX_TEST(a_removed_one_is_gone),
	    OUTBOX_TEST(the_file_is_bounded),
	    OUTBOX_TEST(two_mounts_hear_of_each_other),
	    OUTBOX_TEST(a_mount_that_missed_much_catches_up),
	    OUTBOX_TEST(what_was_put_survives_kill),
	    OUTBOX_TEST(many_of_one_name),
	    cmocka_unit_test(a_full_disk_is_enospc),
	    cmocka_unit_test(a_read_only_disk_is_erofs),
	};

	return cmocka_run_group_tests_name("outbox entries", tests, NULL, NULL);
}
