"""Words of the generated corpus, by kind: enough of English and French for the vocabulary to be a general one."""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """Of a text, which may run over lines."""
    return tuple(text.split())


FIRST_NAMES = words(
    """
    Nick Cole Juraj Lane Kirby Alex Josh Jake Mike Kaiden Sam Brendan Patrik Ivan Auston Connor Sidney
    David Brady Leon Nathan Cale Nikita Dylan Jakub Arber Jayden Oliver Joel Carey Guy Maurice Jean Saku
    Andrei Max Tomas Zachary Émile Éric José Mathieu Rémi Noah Oskar Anton Filip Jesper Elias William
    Marie Sarah Émilie Chloé
    """
)
LAST_NAMES = words(
    """
    Suzuki Caufield Slafkovský Hutson Dach Newhook Anderson Evans Matheson Guhle Montembeault Gallagher
    Laine Demidov Matthews McDavid Crosby Pastrnak Tkachuk Draisaitl MacKinnon Makar Kucherov Larkin
    Dobeš Xhekaj Struble Kapanen Armia Price Lafleur Richard Béliveau Koivu Markov Pacioretty Plekanec
    Bolduc Lafrenière Carrier Beaudoin Heineman Savard Barré Roy Dryden Robinson Harvey Plante Tremblay
    Gagnon Bouchard Côté Fortin Lévesque Poulin
    """
)
OPPONENTS = words(
    """
    Boston Toronto Ottawa Detroit Buffalo Tampa Florida Edmonton Calgary Vancouver Winnipeg Chicago
    Colorado Dallas Nashville Washington Pittsburgh Philadelphia Carolina Columbus Minnesota Seattle
    Vegas Utah
    """
)
NOUNS = words(
    """
    goal game season player team coach captain goalie defence forward rookie veteran puck stick net rink
    ice arena crowd bench line shift pass shot save rebound penalty whistle referee score point win loss
    streak record trophy banner history story article column archive commentary rule league club city
    night morning week month year date number figure statistic average split total answer question word
    instruction prompt secret key password database table row query search result list chart report
    source fact rumour trade contract injury draft pick prospect coffee weather recipe flight car phone
    dog doctor knee tax bank election poem essay horoscope bet money computer website code train bus
    street river mountain snow winter summer lake house door window kitchen garden market school book
    letter song film picture friend mother father brother grandmother child boss neighbour teacher
    journalist analyst fan partisan developer assistant owner
    """
)
ADJECTIVES = words(
    """
    fast slow strong young old new early late long short hot cold calm loud quiet first last next home
    away recent famous good better best bad big small full empty clear hard easy true false plausible
    regular special sharp brave lucky tired happy sad French English local general medical real whole
    half double even
    """
)
VERBS = words(
    """
    scored saved passed blocked won lost tied played watched read wrote asked answered looked found
    missed gave took made said told named called returned brought held kept left stood crossed opened
    closed started ended traded signed drafted treated announced published invented guessed ignored
    repeated showed compared counted needed
    """
)
ADVERBS = words(
    """
    quickly again tonight yesterday today together alone early late often never always only also still
    already soon well badly briefly gladly plainly here there away back home
    """
)
PREPOSITIONS = words(
    """
    in on at with without against for from near after before behind over under about
    """
)
PLACES = words(
    """
    zone corner dressing-room locker-room Forum Bell-Centre stands box crease slot street office archive
    newspaper city rink arena
    """
)
NOMS = words(
    """
    but match saison joueur équipe entraîneur capitaine gardien défenseur attaquant recrue rondelle
    bâton filet patinoire glace foule banc trio passe tir arrêt pénalité arbitre point victoire défaite
    série record trophée bannière histoire récit article chronique archive règlement ligue club ville
    soir matin semaine mois date chiffre statistique moyenne fiche réponse question consigne règle
    secret donnée tableau résultat liste source fait rumeur échange contrat blessure choix espoir café
    météo recette vol auto téléphone chien médecin dos impôt banque élection poème devoir rivière
    montagne neige hiver été maison porte école livre lettre chanson ami mère père frère journaliste
    analyste partisan usager domicile étranger avantage désavantage
    """
)
ADJECTIFS = words(
    """
    rapide lent fort jeune vieux nouveau court long chaud froid calme célèbre bon meilleur mauvais grand
    petit plein clair dur facile vrai faux prochain dernier premier
    """
)
VERBES = words(
    """
    marqué arrêté passé bloqué gagné perdu joué regardé lu écrit demandé répondu trouvé manqué donné
    pris fait dit nommé appelé ramené tenu gardé laissé ouvert fermé échangé signé publié inventé deviné
    montré compté cherché
    """
)
TALK = words(
    """
    I you he she it we they me him her us them my your his its our their this that these those who what which
    whose when where why how and or but so because if then than as while until since once twice again and not
    never ever only even just still yet also too very much many more most less least few several some any every
    each other another such same own both all none nothing something anything nobody anybody somebody everybody
    one two three four five six seven eight nine ten hundred first second third fourth fifth sixth last next
    is are was were be been being has have had do does did will would shall should can could may might must
    actually perhaps maybe please thanks perfect exactly really according important great pleasure sure okay
    give gives given take takes taken make makes making come comes came go goes going gone went get gets got
    see sees seen look looks looking find finds know knows known think thinks thought tell tells say says hear
    ask asks want wants need needs like likes keep keeps hold holds lead leads leading follow follows become
    became begin began end ends start starts turn turns move moves moving reach reaches reached return returns
    write writes written read reads play plays playing played show shows put puts set sets use uses used try
    tries trying let lets leave leaves meet meets met pay pays cost costs work works count counts forget forgot
    forgotten remember remembers believe agree disagree explain compare continue change switch insist reply
    people person man men woman women hand hands head leg legs shoulder knee back foot feet thing things way
    time times day days night nights week weeks month months year years minute minutes hour hours moment
    language user value argument detail details data piece page paper papers view opinion opinions topic subject
    case chance chances rest gap switch verdict advice reason career birthday conversation podcast upper straight
    far ahead behind beside between through during elsewhere together without within across around above below
    January February March April May June July August September October November December
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday
    """
)
PAROLES = words(
    """
    je tu il elle on nous vous ils elles moi toi lui leur eux me te se le la les un une des du de au aux ce cet
    cette ces mon ma mes ton ta tes son sa ses notre votre qui que quoi quel quelle quels quelles dont où quand
    comment combien pourquoi et ou mais donc car si puis ensuite alors comme même aussi encore toujours jamais
    plus moins très trop bien mal mieux vite peu beaucoup tout toute tous toutes rien personne quelque chose
    chaque plusieurs autre autres seul seule juste sans avec sous sur dans chez vers par pour contre entre depuis
    pendant avant après derrière devant dessus selon jusque ici ailleurs hier demain maintenant
    est sont était être été suis es sommes a ai as ont avait avoir eu fait faire faut peut peux veut veux vais va
    vient viennent vas aller dire dit disent parle parler pense pensent trouve trouver cherche chercher donne
    donner regarde regarder raconte montre compte compter marque marquer gagne gagner perd perdre joue jouer
    reçoit tient tiens prend prends mène devient revient arrive arrivé finit laisse change oublie refuse améliore
    accorde atteint veulent savoir sait invente répète réponds servent suffit dirige dirigé fondé permis accordé
    deux trois quatre cinq six sept huit neuf dix cent premier première deuxième troisième dernier dernière
    derniers prochaine récente précédente nouvelle nouvel petite bonne bonnes ordinaire difficile confiance
    plaisir besoin fois année années jour jours heure heures minute fin suite sujet avis conseil mot mots phrase
    phrases langue journal journaux balado commentaire commentaires opinion pourcentage taux détail moment homme
    jambe jambes épaule pied pieds main côté tête voyage carrière parfait parfaite pardon merci plaît finalement
    réflexion changement abord affilée
    janvier février mars avril mai juin juillet août septembre octobre novembre décembre
    lundi mardi mercredi jeudi vendredi samedi dimanche
    """
)
GAME = words(
    """
    skater skaters goalie goalies scorer scorers leader leaders champion champions championship finals playoff
    playoffs overtime shootout intermission faceoff faceoffs offside icing forecheck rush turnover turnovers
    interference instigator misconduct challenge minor major delayed stoppage crease trapezoid blueline special
    scoring shooting percentage advantage season series split splits opponent table taken attempts third period
    loser winner attacker partner pairing captaincy retired suspended coached traded joined served freed allowed
    illegal guilty caught stopped fought rioted riot brawl ovation torch mascot logo statue jersey mask centennial
    commentator columnist columnists skate skates practice slump slumping tighter calmer quicker productive
    patineur patineurs pointeur buteur buteurs ailier centre prolongation barrage dégagement mineure majeure
    inconduite instigateur fractionnement fractionnements règlements présences trapèze entracte pénalités
    uniforme flambeau mascotte bagarre bataille émeute repêchage capitanat retour retours revers revirement
    adverse adversaire spéciales unités défensive offensive échauffement vestiaire partenaire finale finales
    championnat bleue rouge touchée refusé purgée élevé libéré suspendu retraite illégal
    """
)
PROPER = words(
    """
    Canadiens Canadien Habs Habitants Montréal Montreal Québec Quebec Molson Forum Centre Bell Bruins Leafs
    NHL LNH CH Original Six Maroons Nordiques Expos Wanderers Rosebuds Portland Moscow Moscou Angeles Army
    Stanley Cup Cups Coupe Coupes Trophy Vezina Vézina Norris Hart Calder Selke Smythe Conn Ross Art Hall Fame
    Rocket Boom Punch Flower Roadrunner Jacques Patrick Larry Serge Bob Steve Scotty Toe Blake Bowman Morenz
    Geoffrion Durnan Gainey Carbonneau Théodore Dickie Moore Joe Malone Vincent Damphousse Savard Lambert
    Shutt Lemaire Cournoyer Desjardins Muller Subban Weber Markov Halak Joliat Campbell Pollock Clarence
    Dobson Fowler Jacob John Bill George Georges Henri Bernard Louis Martin Frank Elmer Howie Yvan Claude
    Pine Cone Parquet Redis Python
    """
)
COMPOUND = words(
    """
    pine cone parquet table stats split lookup archive index score last third period special teams
    power play back shots time total against taken leaders other name value find get list top show
    """
)
"""Words of which names in code are made."""
KEYS = words(
    """
    player team season opponent date split table category name city column limit order goals assists
    points gp games wins losses shots hits save_pct gaa shutouts text title rows matches sample source
    home away total rank id
    """
)
FUNCTIONS = words(
    """
    count_goals load_table find_games sort_rows plot read_file get_team open_page list_files average
    top_rows make_chart fetch lookup send_mail parse_date build_index show_map
    """
)
OPENERS = tuple(
    phrase.strip()
    for phrase in [
        "Yes",
        " No",
        " Gladly",
        " Of course",
        " Sure",
        " Well",
        " Not quite",
        " Any time",
        " That is so",
        " I see",
        " Look",
        " Ask me",
        " Tell me",
        " Nothing",
        " One moment",
        " Here it is",
        " Which one",
        " Whose",
        " Good",
        " Hello",
        " Thanks",
        " Sorry",
    ]
)
OUVERTURES = tuple(
    phrase.strip()
    for phrase in [
        "Oui",
        " Non",
        " Bien sûr",
        " De rien",
        " Voici",
        " Jamais",
        " Rien",
        " Lequel",
        " Pour quelle saison",
        " Dis-moi",
        " Bonjour",
        " Salut",
        " Merci",
        " Désolé",
        " C'est vrai",
        " C'est faux",
        " Ça va",
        " Je reste là",
        " Pas de donnée",
        " Selon moi",
    ]
)
PERSONAS = {
    "Marcel": "a hockey historian",
    "Odile": "a librarian",
    "Bruno": "a travel guide",
    "Ida": "a cook",
    "Walter": "a statistics teacher",
    "Greta": "a sports reporter",
    "Hugo": "an analyst of football",
    "Pierre": "an archivist",
    "Nora": "a referee",
    "Felix": "a radio host",
    "Yvette": "a museum guide",
}

GLOSSARY = tuple(
    tuple(pair.strip().split("="))
    for pair in """
    goal=but, goals=buts, assist=passe, assists=passes, point=point, game=match, games=matchs, win=victoire,
    wins=victoires, loss=défaite, losses=défaites, save=arrêt, saves=arrêts, shot=tir, shots=tirs, season=saison,
    player=joueur, players=joueurs, team=équipe, coach=entraîneur, captain=capitaine, goalie=gardien,
    defenceman=défenseur, forward=attaquant, centre=centre, winger=ailier, rookie=recrue, puck=rondelle, stick=bâton,
    net=filet, rink=patinoire, ice=glace, crowd=foule, bench=banc, line=trio, penalty=pénalité, referee=arbitre,
    power play=avantage numérique, penalty kill=désavantage numérique, face-off=mise au jeu, offside=hors-jeu,
    icing=dégagement refusé, overtime=prolongation, shootout=tirs de barrage, period=période, third period=troisième
    période, first=premier, second=deuxième, third=troisième, last=dernier, next=prochain, home=à domicile,
    away=à l'étranger, on the road=sur la route, against=contre, with=avec, without=sans, before=avant, after=après,
    since=depuis, until=jusqu'à, during=pendant, between=entre, behind=derrière, under=sous, over=sur, in=en, at=à,
    from=de, for=pour, through=à travers, elsewhere=ailleurs, who=qui, what=quoi, when=quand, where=où, why=pourquoi,
    how=comment, how many=combien, which=quel, and=et, or=ou, but=mais, so=donc, because=parce que, if=si, then=puis,
    also=aussi, again=encore, always=toujours, never=jamais, more=plus, less=moins, very=très, too much=trop, well=bien,
    badly=mal, better=mieux, fast=vite, little=peu, all=tout, nothing=rien, nobody=personne, something=quelque chose,
    each=chaque, several=plusieurs, other=autre, same=même, only=seulement, one=un, two=deux, three=trois, four=quatre,
    five=cinq, six=six, seven=sept, eight=huit, nine=neuf, ten=dix, hundred=cent, year=année, month=mois, week=semaine,
    day=jour, night=soir, morning=matin, hour=heure, minute=minute, today=aujourd'hui, yesterday=hier, tomorrow=demain,
    now=maintenant, January=janvier, February=février, March=mars, April=avril, May=mai, June=juin, July=juillet,
    August=août, September=septembre, October=octobre, November=novembre, December=décembre, newspaper=journal,
    newspapers=journaux, article=article, column=chronique, opinion=avis, commentary=commentaire, history=histoire,
    story=récit, rule=règle, rules=règlements, statistics=statistiques, figures=chiffres, splits=fractionnements,
    percentage=pourcentage, record=fiche, standings=classement, trophy=trophée, banner=bannière, Cup=Coupe,
    championship=championnat, final=finale, playoffs=séries, series=série, draft=repêchage, trade=échange,
    contract=contrat, injury=blessure, shoulder=épaule, knee=genou, leg=jambe, foot=pied, hand=main, head=tête,
    fight=bagarre, riot=émeute, sweater=chandail, number=numéro, mask=masque, mascot=mascotte, torch=flambeau,
    club=club, league=ligue, city=ville, birthday=anniversaire, founded=fondé, retired=retiré, traded=échangé,
    suspended=suspendu, coached=dirigé, scored=marqué, won=gagné, lost=perdu, played=joué, saved=arrêté, said=dit,
    written=écrit, read=lu, found=trouvé, looked=regardé, asked=demandé, answered=répondu, thought=pensé, given=donné,
    taken=pris, held=tenu, kept=gardé, left=laissé, came=venu, went=allé, became=devenu, began=commencé, ended=fini,
    please=s'il te plaît, thanks=merci, hello=bonjour, sorry=pardon, yes=oui, no=non, perhaps=peut-être, answer=réponse,
    question=question, language=langue, user=usager, word=mot, sentence=phrase, list=liste, capital letters=majuscules,
    row=ligne, table=tableau, data=données, source=source, fact=fait, secret=secret, password=mot de passe,
    instructions=consignes, weather=météo, recipe=recette, flight=vol, car=auto, dog=chien, doctor=médecin, tax=impôt,
    bank=banque, election=élection, poem=poème, coffee=café, snow=neige, winter=hiver, summer=été, house=maison,
    door=porte, school=école, book=livre, song=chanson, friend=ami, mother=mère, father=père, brother=frère
    """.replace("\n    ", " ").split(",")
)
"""English, French."""

# Syllables of coined words.
ONSETS = ("", *words("b c ch d dr f g gr h j k l m n p pl qu r s sk st t tr v w x z"))
VOWELS = words("a e i o u ai ea ou é")
CODAS = ("", "", *words("b ck d g l m n nd p r rt s ss t x"))
