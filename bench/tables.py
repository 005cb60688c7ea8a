"""What the leaderboard file holds: its tables, with their column types, and its views."""

from __future__ import annotations

# Columns common to every row that is a number of a metric. ``protocol`` is the digest of the others.
PROTOCOL = {
    "protocol": "VARCHAR", "metric": "VARCHAR", "metric_version": "VARCHAR", "extractor": "VARCHAR",
    "extractor_digest": "VARCHAR", "view": "VARCHAR", "params": "JSON", "reference": "VARCHAR",
    "reference_id": "VARCHAR",
}  # fmt: skip

TABLES: dict[str, dict[str, str]] = {
    "prompt_set": {"prompt_set": "VARCHAR", "prompts": "BIGINT"},
    "prompt": {"prompt_set": "VARCHAR", "prompt_id": "VARCHAR", "prompt": "VARCHAR", "negative": "VARCHAR"},
    "suite": {"suite": "VARCHAR", "suite_digest": "VARCHAR", "tier": "VARCHAR", "time": "TIMESTAMP"},
    "part": {"suite_digest": "VARCHAR", "part": "VARCHAR", "width": "BIGINT", "height": "BIGINT", "loop": "BOOLEAN",
             "prompt_set": "VARCHAR"},
    "environment": {"environment_id": "VARCHAR", "scrollbench": "VARCHAR", "git": "VARCHAR", "python": "VARCHAR",
                    "torch": "VARCHAR", "diffusers": "VARCHAR", "platform": "VARCHAR", "cpu": "VARCHAR",
                    "threads": "BIGINT", "device": "VARCHAR", "details": "JSON"},
    "run": {"run_id": "VARCHAR", "suite": "VARCHAR", "suite_digest": "VARCHAR", "environment_id": "VARCHAR",
            "status": "VARCHAR", "argv": "VARCHAR[]", "started": "TIMESTAMP", "finished": "TIMESTAMP"},
    "recipe": {"recipe_id": "VARCHAR", "prompt_id": "VARCHAR", "prompt": "VARCHAR", "negative": "VARCHAR",
               "width": "BIGINT", "height": "BIGINT", "loop": "BOOLEAN", "seed": "BIGINT", "method": "VARCHAR",
               "method_version": "VARCHAR", "method_source": "VARCHAR", "params": "JSON", "backbone": "VARCHAR",
               "backbone_source": "VARCHAR", "weights": "VARCHAR", "precision": "VARCHAR"},
    "image": {"recipe_id": "VARCHAR", "image_id": "VARCHAR", "run_id": "VARCHAR", "width": "BIGINT", "height": "BIGINT",
              "flags": "VARCHAR[]", "nfe": "BIGINT", "seconds": "DOUBLE", "peak_bytes": "BIGINT", "stages": "JSON",
              "time": "TIMESTAMP"},
    "failure": {"recipe_id": "VARCHAR", "run_id": "VARCHAR", "reason": "VARCHAR", "message": "VARCHAR",
                "attempt": "BIGINT", "time": "TIMESTAMP"},
    "member": {"suite": "VARCHAR", "suite_digest": "VARCHAR", "tier": "VARCHAR", "part": "VARCHAR", "method": "VARCHAR",
               "preset": "VARCHAR", "control": "BOOLEAN", "optimises": "VARCHAR[]", "prompt_set": "VARCHAR",
               "prompt_id": "VARCHAR", "seed": "BIGINT", "recipe_id": "VARCHAR"},
    "protocol": {**PROTOCOL, "last_used": "TIMESTAMP"},
    "score": {"image_id": "VARCHAR", **PROTOCOL, "key": "VARCHAR", "prompt_id": "VARCHAR", "name": "VARCHAR",
              "index": "BIGINT", "value": "DOUBLE"},
    "set_score": {"suite": "VARCHAR", "suite_digest": "VARCHAR", "part": "VARCHAR", "method": "VARCHAR", **PROTOCOL,
                  "key": "VARCHAR", "n": "BIGINT", "m": "BIGINT", "name": "VARCHAR", "value": "DOUBLE"},
    "score_failure": {"key": "VARCHAR", "image_id": "VARCHAR", "metric": "VARCHAR", "extractor": "VARCHAR",
                      "view": "VARCHAR", "reason": "VARCHAR", "message": "VARCHAR", "time": "TIMESTAMP"},
    # what the names of metrics mean here, and how much of a canvas a view looks at
    "reading": {"metric": "VARCHAR", "name": "VARCHAR", "direction": "VARCHAR", "unit": "VARCHAR"},
    "sight": {"view": "VARCHAR", "width": "BIGINT", "height": "BIGINT", "loop": "BOOLEAN", "seen": "DOUBLE"},
}  # fmt: skip


# A view may use those above it. Names are unqualified, so the file can be attached under any name.
VIEWS: dict[str, str] = {
    # every picture a suite wants, made or not
    "picture": """
        select m.*, i.image_id, i.width, i.height, i.flags, i.nfe, i.seconds, i.peak_bytes
        from member m left join image i using (recipe_id)""",
    # how far a suite is: wanted = made + failed + waiting
    "coverage": """
        select suite, suite_digest, tier, part, method, any_value(control) as control, count(*) as wanted,
               count(image_id) as made,
               count(*) filter (image_id is null and recipe_id in (select recipe_id from failure)) as failed,
               count(*) filter (image_id is null and recipe_id not in (select recipe_id from failure)) as waiting,
               count(*) filter (len(flags) > 0) as flagged
        from picture group by suite, suite_digest, tier, part, method""",
    # one number of one picture: its whole-picture value, else the mean along the panorama (undefined if any part is);
    # curves without a direction (lags) have no mean that means anything
    "observation": """
        with whole as (
            select image_id, prompt_id, protocol, name,
                   case when count(*) filter ("index" is null) > 0 then max(value) filter ("index" is null)
                        when count(value) = count(*) then avg(value) end as value
            from score left join reading using (metric, name) group by image_id, prompt_id, protocol, name
            having count(*) filter ("index" is null) > 0 or coalesce(any_value(direction), '') <> 'none')
        select p.suite, p.suite_digest, p.tier, p.part, p.method, p.prompt_id, p.seed, p.recipe_id, p.image_id,
               s.protocol, s.name, s.value
        from picture p join whole s on s.image_id = p.image_id and coalesce(s.prompt_id = p.prompt_id, true)
        union all
        select suite, suite_digest, tier, part, method, prompt_id, seed, recipe_id, image_id, 'cost',
               unnest(['seconds', 'nfe', 'peak_bytes']), unnest([seconds, nfe::double, peak_bytes::double])
        from picture where image_id is not null""",
    # one row a prompt, seeds averaged inside it: what paired comparisons are made of
    "pairs": """
        select suite, suite_digest, tier, part, name as metric, protocol, prompt_id, method, avg(value) as value,
               count(value) as seeds
        from observation group by suite, suite_digest, tier, part, name, protocol, prompt_id, method
        having count(value) > 0""",
    # scores along the panorama
    "curve": """
        select p.suite, p.suite_digest, p.tier, p.part, p.method, p.prompt_id, p.seed, s.name as metric, s.extractor,
               s.view, s.protocol, s."index", s.value
        from picture p join score s on s.image_id = p.image_id and coalesce(s.prompt_id = p.prompt_id, true)
        where s."index" is not null""",
    # one row per suite, part, method and number; a number that could not be had is there, as a NULL. Of the pictures
    # wanted, n have it, on some it is undefined (a count of what no caption asks for), on the rest it is missing
    "leaderboard": """
        with cell as (
            select suite, suite_digest, tier, part, method, any_value(control) as control,
                   any_value(optimises) as optimises, count(*) as wanted
            from member group by suite, suite_digest, tier, part, method),
        prompted as (
            select suite_digest, part, method, protocol, name, avg(value) as value, count(value) as n,
                   count(*) as looked
            from observation group by suite_digest, part, method, protocol, name, prompt_id),
        measured as (
            select suite_digest, part, method, protocol, name, avg(value) as value, sum(n)::bigint as n,
                   sum(looked - n)::bigint as undefined, count(value) as prompts
            from prompted group by suite_digest, part, method, protocol, name
            union all
            select suite_digest, part, method, protocol, name, value, n, 0, null from set_score),
        asked as (
            select distinct suite_digest, part, protocol, name from prompted
            union select distinct suite_digest, part, protocol, name from set_score)
        select c.suite, c.suite_digest, c.tier, c.part, c.method, c.control, c.optimises, a.name as metric,
               p.extractor, p.extractor_digest, p.view, p.reference, p.reference_id, p.metric_version, p.params,
               r.direction, r.unit, m.value, coalesce(m.n, 0) as n, m.prompts, coalesce(m.undefined, 0) as undefined,
               c.wanted - coalesce(m.n, 0) - coalesce(m.undefined, 0) as missing, s.seen, a.protocol
        from cell c
        join asked a using (suite_digest, part)
        left join measured m using (suite_digest, part, method, protocol, name)
        left join protocol p using (protocol)
        left join reading r on r.metric = p.metric and r.name = a.name
        left join part t using (suite_digest, part)
        left join sight s on s.view = p.view and s.width = t.width and s.height = t.height and s.loop = t.loop
        order by c.suite, c.suite_digest, c.part, c.control, c.method, a.name, a.protocol""",
}
