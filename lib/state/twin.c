/* SPDX-License-Identifier: MIT */
#include "twin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	TWIN_DIGITS_MAX = 6,
	TWIN_MAX = 999999,
	TWIN_BASE_MAX = MQFS_NAME_MAX - 1 - TWIN_DIGITS_MAX,
};

static void twin_read(const char *name, struct twin *ret_twin)
{
	const char *tilde = strrchr(name, '~');
	size_t digits = tilde ? strspn(tilde + 1, "0123456789") : 0;

	snprintf(ret_twin->base, sizeof(ret_twin->base), "%s", name);
	ret_twin->number = 1;
	if (digits == 0 || digits > TWIN_DIGITS_MAX || tilde[1 + digits] != '\0' || tilde[1] == '0' ||
	    strcmp(tilde, "~1") == 0 || tilde == name || tilde - name > TWIN_BASE_MAX)
		return;
	ret_twin->base[tilde - name] = '\0';
	ret_twin->number = atoi(tilde + 1);
}

void twin_write(const char *base, int64_t number, mqfs_name_t ret_name)
{
	if (number == 1)
		snprintf(ret_name, sizeof(mqfs_name_t), "%s", base);
	else
		snprintf(ret_name, sizeof(mqfs_name_t), "%.*s~%lld", TWIN_BASE_MAX, base, (long long)number);
}

/* Room for "~" and a number behind it; no UTF-8 character is cut in two. */
static void twin_cut(struct twin *twin)
{
	size_t length = strlen(twin->base);

	if (length <= TWIN_BASE_MAX)
		return;
	for (length = TWIN_BASE_MAX; length > 1 && (twin->base[length] & 0xc0) == 0x80;)
		length--;
	twin->base[length] = '\0';
}

/* 1: twin is free, or id's own. */
static int twin_is_free(struct mqfs_state *state, int64_t line, int priority, const struct twin *twin, int64_t id)
{
	static const char select[] =
	    "SELECT id FROM entry WHERE line = ?1 AND priority = ?2 AND base = ?3 AND twin = ?4";
	sqlite3_stmt *statement = state_statement(state, select);
	int64_t found;
	int r;

	sqlite3_bind_int64(statement, 1, line);
	sqlite3_bind_int(statement, 2, priority);
	sqlite3_bind_text(statement, 3, twin->base, -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 4, twin->number);
	r = statement_integer(statement, 0, &found);
	return r < 0 ? r : found == 0 || found == id;
}

/* The number after the last twin of base; where somebody has used the very last, the first that is free. */
static int twin_next(struct mqfs_state *state, int64_t line, int priority, const char *base, int64_t *ret_number)
{
	static const char last[] = "SELECT max(twin) FROM entry WHERE line = ?1 AND priority = ?2 AND base = ?3";
	static const char gap[] =
	    "SELECT min(e.twin) FROM entry e WHERE line = ?1 AND priority = ?2 AND base = ?3 AND NOT EXISTS"
	    " (SELECT 1 FROM entry n WHERE n.line = ?1 AND n.priority = ?2 AND n.base = ?3 AND n.twin = e.twin + 1)";
	int64_t number = TWIN_MAX;
	int r = 0;

	for (int i = 0; i < 2 && r == 0 && number >= TWIN_MAX; i++) {
		sqlite3_stmt *statement = state_statement(state, i == 0 ? last : gap);

		sqlite3_bind_int64(statement, 1, line);
		sqlite3_bind_int(statement, 2, priority);
		sqlite3_bind_text(statement, 3, base, -1, SQLITE_STATIC);
		r = statement_integer(statement, 1, &number);
	}
	*ret_number = number + 1;
	return r;
}

int twin_choose(struct mqfs_state *state, int64_t line, int priority, const char *name, int64_t id,
                struct twin *ret_twin)
{
	int r;

	twin_read(name, ret_twin);
	r = twin_is_free(state, line, priority, ret_twin, id);
	if (r != 0)
		return r < 0 ? r : 0;
	twin_cut(ret_twin);
	return twin_next(state, line, priority, ret_twin->base, &ret_twin->number);
}
