"""What the leaderboard file holds: its tables, with their column types, and its views."""

from __future__ import annotations


def mean(value: str, order: str) -> str:
    """The mean of a column in SQL, summed in one order: the same records give the same number, to its last bit."""
    return f"list_avg(list({value} order by {order}))"


# Columns common to every row that is a number of a metric. ``protocol`` is the digest of the others.
PROTOCOL = {
    "protocol": "VARCHAR", "metric": "VARCHAR", "metric_version": "VARCHAR", "metric_source": "VARCHAR",
    "extractor": "VARCHAR", "extractor_digest": "VARCHAR", "view": "VARCHAR", "params": "JSON", "reference": "VARCHAR",
    "reference_id": "VARCHAR",
}  # fmt: skip

TABLES: dict[str, dict[str, str]] = {
    "prompt_set": {"prompt_set": "VARCHAR", "prompts": "BIGINT"},
    "prompt": {"prompt_set": "VARCHAR", "prompt_id": "VARCHAR", "prompt": "VARCHAR", "negative": "VARCHAR"},
    "suite": {"suite": "VARCHAR", "suite_digest": "VARCHAR", "tier": "VARCHAR"},
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
              "contested": "BOOLEAN", "time": "TIMESTAMP"},
    "failure": {"recipe_id": "VARCHAR", "run_id": "VARCHAR", "reason": "VARCHAR", "message": "VARCHAR",
                "attempt": "BIGINT", "time": "TIMESTAMP"},
    "member": {"suite": "VARCHAR", "suite_digest": "VARCHAR", "tier": "VARCHAR", "part": "VARCHAR", "method": "VARCHAR",
               "preset": "VARCHAR", "control": "BOOLEAN", "optimises": "VARCHAR[]", "prompt_set": "VARCHAR",
               "prompt_id": "VARCHAR", "seed": "BIGINT", "recipe_id": "VARCHAR", "sampler": "VARCHAR",
               "asked": "VARCHAR", "turn": "BIGINT", "contested": "BOOLEAN"},
    "protocol": PROTOCOL,
    "score": {"image_id": "VARCHAR", **PROTOCOL, "key": "VARCHAR", "prompt_id": "VARCHAR", "asked": "VARCHAR",
              "turn": "BIGINT", "name": "VARCHAR", "index": "BIGINT", "value": "DOUBLE"},
    "set_score": {"suite": "VARCHAR", "suite_digest": "VARCHAR", "part": "VARCHAR", "method": "VARCHAR", **PROTOCOL,
                  "key": "VARCHAR", "group_id": "VARCHAR", "n": "BIGINT", "m": "BIGINT", "name": "VARCHAR",
                  "value": "DOUBLE"},
    "score_failure": {"key": "VARCHAR", "image_id": "VARCHAR", "metric": "VARCHAR", "extractor": "VARCHAR",
                      "view": "VARCHAR", "reason": "VARCHAR", "message": "VARCHAR", "time": "TIMESTAMP"},
    # which protocol of a metric a suite's column shows, of how many pictures, and how many have another (see DERIVED)
    "standing": {"suite_digest": "VARCHAR", "protocol": "VARCHAR", "pictures": "BIGINT", "shown": "BOOLEAN",
                 "left_out": "BIGINT"},
    # the columns of a suite's board, as scoring wrote them down; ``numbers`` are tested together (bench.stats.ranks)
    "board_column": {"suite_digest": "VARCHAR", "label": "VARCHAR", "name": "VARCHAR", "metric": "VARCHAR",
                     "extractor": "VARCHAR", "view": "VARCHAR", "reference": "VARCHAR", "params": "JSON",
                     "direction": "VARCHAR", "numbers": "BIGINT", "least": "DOUBLE", "most": "DOUBLE"},
    # label, interval, letters and ranks of each number of the leaderboard (bench.store.places)
    "place": {"suite_digest": "VARCHAR", "part": "VARCHAR", "method": "VARCHAR", "protocol": "VARCHAR",
              "name": "VARCHAR", "label": "VARCHAR", "low": "DOUBLE", "high": "DOUBLE", "group": "VARCHAR",
              "rank_low": "BIGINT", "rank_high": "BIGINT"},
    # what the names of metrics mean here, and how much of a canvas a view looks at
    "reading": {"metric": "VARCHAR", "name": "VARCHAR", "direction": "VARCHAR", "unit": "VARCHAR"},
    "sight": {"view": "VARCHAR", "width": "BIGINT", "height": "BIGINT", "loop": "BOOLEAN", "seen": "DOUBLE"},
}  # fmt: skip

# Which scores are of a picture of a suite: of its pixels and, where the metric reads it, of its prompt; where the view
# is drawn for the picture's turn, of its turn.
MATCH = """s.image_id = p.image_id and coalesce(s.prompt_id = p.prompt_id, true)
            and coalesce(s.asked = p.asked, true) and coalesce(s.turn = p.turn, true)"""

# A view may use those above it. Names are unqualified, so the file can be attached under any name.
VIEWS: dict[str, str] = {
    # every picture a suite wants, made or not
    "picture": """
        select m.* replace (coalesce(m.contested, false) or coalesce(i.contested, false) as contested),
               i.image_id, i.width, i.height, i.flags, i.nfe, i.seconds, i.peak_bytes
        from member m left join image i using (recipe_id)""",
    # how far a suite is: wanted = made + failed + waiting. Of those wanted, merged records tell two stories of the
    # contested; samplers is how many versions of the method are among them
    "coverage": """
        select suite, suite_digest, tier, part, method, any_value(control) as control, count(*) as wanted,
               count(image_id) as made,
               count(*) filter (image_id is null and recipe_id in (select recipe_id from failure)) as failed,
               count(*) filter (image_id is null and recipe_id not in (select recipe_id from failure)) as waiting,
               count(*) filter (len(flags) > 0) as flagged, count(*) filter (contested) as contested,
               count(distinct sampler) as samplers
        from picture group by suite, suite_digest, tier, part, method""",
    # one number of one picture, by the protocol that stands: its whole-picture value, else the mean along the panorama
    # (undefined if any part is); curves without a direction (lags) have no mean that means anything
    "observation": f"""
        with whole as (
            select image_id, prompt_id, asked, turn, protocol, name,
                   case when count(*) filter ("index" is null) > 0 then max(value) filter ("index" is null)
                        when count(value) = count(*) then {mean("value", '"index"')} end as value
            from score left join reading using (metric, name)
            group by image_id, prompt_id, asked, turn, protocol, name
            having count(*) filter ("index" is null) > 0 or coalesce(any_value(direction), '') <> 'none')
        select p.suite, p.suite_digest, p.tier, p.part, p.method, p.prompt_id, p.seed, p.recipe_id, p.image_id,
               s.protocol, s.name as metric, s.value
        from picture p join whole s on {MATCH}
        join standing t on t.suite_digest = p.suite_digest and t.protocol = s.protocol and t.shown
        union all
        select suite, suite_digest, tier, part, method, prompt_id, seed, recipe_id, image_id, 'cost',
               unnest(['seconds', 'nfe', 'peak_bytes']), unnest([seconds, nfe::double, peak_bytes::double])
        from picture where image_id is not null""",
    # one row a prompt, seeds averaged inside it: what paired comparisons are made of
    "pairs": f"""
        select suite, suite_digest, tier, part, metric, protocol, prompt_id, method,
               {mean("value", "seed")} as value,
               count(value) as seeds
        from observation group by suite, suite_digest, tier, part, metric, protocol, prompt_id, method
        having count(value) > 0""",
    # scores along the panorama
    "curve": f"""
        select p.suite, p.suite_digest, p.tier, p.part, p.method, p.prompt_id, p.seed, s.name as metric, s.extractor,
               s.view, s.protocol, s."index", s.value
        from picture p join score s on {MATCH}
        join standing t on t.suite_digest = p.suite_digest and t.protocol = s.protocol and t.shown
        where s."index" is not null""",
    # one row per suite, part, method and number; a number that could not be had is there, as a NULL. Of the pictures
    # wanted, n have it, on some it is undefined (a count of what no caption asks for), on the rest it is missing
    "leaderboard": f"""
        with cell as (
            select suite, suite_digest, tier, part, method, any_value(control) as control,
                   any_value(optimises) as optimises, count(*) as wanted,
                   case when any_value(control) then 'control: drawn, not generated'
                        when bool_or(list_contains(flags, 'lossy-source')) then 'adopted from lossy files'
                        when bool_or(list_contains(flags, 'resized')) then 'adopted and resized'
                        when bool_or(list_contains(flags, 'adopted')) then 'adopted' else 'generated' end as provenance
            from picture group by suite, suite_digest, tier, part, method),
        prompted as (
            select suite_digest, part, method, protocol, metric as name, prompt_id, {mean("value", "seed")} as value,
                   count(value) as n, count(*) as looked
            from observation group by suite_digest, part, method, protocol, metric, prompt_id),
        measured as (
            select suite_digest, part, method, protocol, name, {mean("value", "prompt_id")} as value,
                   sum(n)::bigint as n, sum(looked - n)::bigint as undefined, count(value) as prompts
            from prompted group by suite_digest, part, method, protocol, name
            union all
            select suite_digest, part, method, protocol, name, value, n, 0, null from set_score),
        asked as (
            select distinct suite_digest, part, protocol, name from prompted
            union select distinct suite_digest, part, protocol, name from set_score
                join standing using (suite_digest, protocol) where shown)
        select c.suite, c.suite_digest, c.tier, c.part, c.method, c.control, c.optimises, a.name as metric,
               coalesce(q.label, a.name) as label, p.extractor, p.extractor_digest, p.view, p.reference,
               p.reference_id, p.metric_version, p.metric_source, p.params, r.direction, r.unit, m.value, q.low, q.high,
               q."group", q.rank_low, q.rank_high, coalesce(m.n, 0) as n, m.prompts,
               coalesce(m.undefined, 0) as undefined,
               c.wanted - coalesce(m.n, 0) - coalesce(m.undefined, 0) as missing, s.seen, a.protocol,
               coalesce(st.left_out, 0) as left_out, c.provenance
        from cell c
        join asked a using (suite_digest, part)
        left join place q using (suite_digest, part, method, protocol, name)
        left join measured m using (suite_digest, part, method, protocol, name)
        left join protocol p using (protocol)
        left join standing st on st.suite_digest = c.suite_digest and st.protocol = a.protocol
        left join reading r on r.metric = p.metric and r.name = a.name
        left join part t using (suite_digest, part)
        left join sight s on s.view = p.view and s.width = t.width and s.height = t.height and s.loop = t.loop
        order by c.suite, c.suite_digest, c.part, c.control, c.method, a.name, a.protocol""",
}


# Tables that are filled from the others.
DERIVED: dict[str, str] = {
    # A metric may have been computed in two ways: by another source or version of it, through other weights, against
    # other pictures of its reference. A column never mixes them: it shows the one that most of the suite's pictures
    # have, and of equals the one whose digest is smaller; no clock has a say. A reference may be of the backbone that
    # a method runs on, so methods on another one have another.
    "standing": f"""
        with held as (
            select p.suite_digest, s.protocol, null as backbone, count(*) as pictures
            from picture p join (select distinct image_id, prompt_id, asked, turn, protocol from score) s on {MATCH}
            group by p.suite_digest, s.protocol
            union all
            select s.suite_digest, s.protocol, b.backbone, sum(s.n)
            from (select distinct suite_digest, part, method, protocol, n from set_score) s
            join (select m.suite_digest, m.part, m.method, any_value(r.backbone) as backbone
                  from member m left join recipe r using (recipe_id) group by all) b using (suite_digest, part, method)
            group by s.suite_digest, s.protocol, b.backbone
            union all
            select suite_digest, 'cost', null, count(image_id) from picture group by suite_digest),
        ranked as (
            select suite_digest, protocol, pictures, row_number() over (same order by pictures desc, protocol) as place,
                   sum(pictures) over (same) - pictures as others
            from held join protocol using (protocol)
            window same as (partition by suite_digest, backbone, metric, extractor, view, reference, params::varchar))
        select suite_digest, protocol, sum(pictures)::bigint as pictures, bool_or(place = 1) as shown,
               sum(others)::bigint as left_out
        from ranked group by suite_digest, protocol order by suite_digest, protocol""",
}
